#!/usr/bin/env bats
# train-ckpt -i: the members of a pool, fine-tuned or recalibrated; and what it refuses.

bats_require_minimum_version 1.5.0
load tools/refused.bash
load tools/small.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	load-images -n 20 --classes @sample/CLASSES sample/train-images-idx3-ubyte.gz >train.ts
	load-images -n 10 --classes @sample/CLASSES sample/t10k-images-idx3-ubyte.gz >val.ts
	train-ckpt -a convnet2-16 -b 16 --lr 0.02 -e 4 -t val.ts -o base.tar <train.ts
	tar xf base.tar 0/1.ts 0/4.ts
	prune -n 5 --seed 3 <0/4.ts >pruned.tar
	tune -t val.ts -e 0:2 --lr 0.1:0.001 -o tuned.tar <train.ts
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
	rm -rf out work
	mkdir work
}

tune()
{
	train-ckpt -i pruned.tar -b 20 --threads 1 "$@"
}

# runs the Python on standard input, which has members (of a pool), words (of the generator) and order (of images)
python()
{
	"$python" - "$@" <<END
import io, math, tarfile
import msgpack, msgpack_numpy
import numpy as np
import tstream

def objects(f):
    return list(msgpack.Unpacker(f, object_hook=msgpack_numpy.decode, max_buffer_size=1 << 30))

def members(path):  # name -> header, parameters
    out, t = {}, tarfile.open(path, ignore_zeros=True)
    for m in t.getmembers():
        if m.name != "MANIFEST":
            o = objects(t.extractfile(m))
            out[m.name] = o[0], {k: v for f in o[1:-1] for k, v in f.items() if k != "xxh3"}
    return out

def images(path):
    head, frames = tstream.read(path)
    return head, np.concatenate([f["images.u8"] for f in frames]), np.concatenate([f["labels"] for f in frames])

def words(seed, purpose, a, b, c):  # as rng(7) has it
    block = 0
    while True:
        (k0, k1), (x, y, z, w), m = (seed, purpose), (a, b, c, block), 0xffffffff
        for _ in range(10):
            p, q = 0xd2511f53 * x, 0xcd9e8d57 * z
            x, y, z, w = q >> 32 ^ y ^ k0, q & m, p >> 32 ^ w ^ k1, p & m
            k0, k1 = k0 + 0x9e3779b9 & m, k1 + 0xbb67ae85 & m
        yield from (x, y, z, w)
        block += 1

def below(g, n):
    while (w := next(g)) >= 2 ** 32 - 2 ** 32 % n:
        pass
    return w % n

def order(n, seed, epoch, member):
    g, p = words(seed, 1, epoch, 0, member), list(range(n))
    for i in range(n - 1, 0, -1):
        j = below(g, i + 1)
        p[i], p[j] = p[j], p[i]
    return p

$(cat)
END
}

@test "a network that measures nothing finite is an error, not an accuracy of 0" {
	"$python" - <<-'END'
	import tstream
	h, frames = tstream.read("0/4.ts")
	w = tstream.Writer("work/neg.ts", "checkpoint", {k: v for k, v in h.items() if k not in ("tensorstream", "kind")})
	for f in frames:
	    w.put({k: v - 9 if k.endswith("running_var") else v for k, v in f.items()})
	w.finish()
	END
	refused 'the validation loss is not finite' train-ckpt -i work/neg.ts -e 1 --lr 1e-4 -b 20 -t val.ts -o out <train.ts
}

@test "every member has epochs and a rate of its own, those of the page" {
	[ "$(tar tf tuned.tar | tr '\n' ' ')" = "$(tar tf pruned.tar | tr '\n' ' ')" ]
	python <<-'END'
	for k, (head, _) in enumerate(members("tuned.tar").values()):
	    g = words(0, 12, k, 0, 0)
	    epochs = below(g, 3)
	    u = ((next(g) >> 5) * 2 ** 26 + (next(g) >> 6)) / 2 ** 53
	    lr = math.exp(math.log(0.1) + u * (math.log(0.001) - math.log(0.1)))
	    train = head["train"]
	    assert train["epochs"] == epochs, (k, train, epochs)
	    assert ("loss" in train) == ("lr" in train) == (epochs > 0), train
	    assert not epochs or math.isclose(train["lr"], lr, rel_tol=1e-12), (train, lr)
	    assert 0 < train["accuracy"] <= 1, train
	epochs = [h["train"]["epochs"] for h, _ in members("tuned.tar").values()]
	assert len(set(epochs)) > 1, epochs
	END
}

@test "one entry more in the history, the same for all; graph, classes and normalisation stay" {
	python <<-'END'
	was, now, entries = members("pruned.tar"), members("tuned.tar"), []
	for name, (head, _) in now.items():
	    old = was[name][0]
	    assert head["history"][:-1] == old["history"]
	    entries.append(head["history"][-1])
	    assert all(head[k] == old[k] for k in ("net", "classes", "mean", "std", "shape"))
	assert all(e == entries[0] for e in entries)
	args = entries[0]["args"]
	assert entries[0]["program"] == "train-ckpt" and args["epochs"] == [0, 2] and args["lr"] == [0.1, 0.001]
	assert args["images"]["history"][0]["program"] == "load-images"
	assert args["val"]["history"][0]["program"] == "load-images"
	END
}

@test "members apart are, joined, the pool of one run" {
	for k in 3,4 0 2,1; do
		tune -t val.ts -e 0:2 --lr 0.1:0.001 --only "$k" -o "work/part-${k%,*}.tar" <train.ts
	done
	cat work/part-0.tar work/part-2.tar work/part-3.tar >work/joined.tar
	[ "$(tar tif work/joined.tar | tr '\n' ' ')" = "3/0.ts MANIFEST 3/1.ts 3/2.ts MANIFEST 3/3.ts 3/4.ts MANIFEST " ]
	mkdir work/a work/b
	tar xf tuned.tar -C work/a
	tar xif work/joined.tar -C work/b
	rm work/[ab]/MANIFEST
	diff -r work/a work/b
	for k in 2 3; do
		tar -Af work/part-0.tar work/part-$k.tar
	done
	[ "$(tar tf work/part-0.tar)" = "$(tar tif work/joined.tar)" ]
	evaluate -p work/part-0.tar -t val.ts | cut -f 1-4 >work/appended
	evaluate -p work/joined.tar -t val.ts | cut -f 1-4 | cmp - work/appended
	evaluate -p work/joined.tar -t val.ts | cut -f 1-4 >work/joined
	evaluate -p tuned.tar -t val.ts | cut -f 1-4 | cmp - work/joined
}

@test "the same seed gives the same bytes, another one others" {
	tune -t val.ts -e 0:2 --lr 0.1:0.001 <train.ts | cmp - tuned.tar
	tune -t val.ts -e 0:2 --lr 0.1:0.001 --seed 1 <train.ts >work/other.tar
	run ! cmp -s work/other.tar tuned.tar
}

@test "members of the same weights see other batches and views" {
	cat base.tar base.tar >work/twice.tar
	train-ckpt -i work/twice.tar -e 1 --lr 0.01 -b 20 --only 0,4 -o work/a.tar <train.ts
	[ "$(tar tf work/a.tar | tr '\n' ' ')" = "0/1.ts 0/1.ts MANIFEST " ]
	for how in "--crop none --flip 0" "-b 200"; do # the order of the batches alone; the views alone
		for k in 0 4; do
			read -ra words <<<"$how"
			train-ckpt -i work/twice.tar -e 1 --lr 0.01 -b 20 "${words[@]}" --only $k -o work/$k.tar <train.ts
		done
		python <<-'END'
		(a, p), (b, q) = (list(members(f"work/{k}.tar").values())[0] for k in (0, 4))
		assert a["train"]["lr"] == b["train"]["lr"]
		assert not np.allclose(p["features.0.weight"], q["features.0.weight"], atol=1e-6)
		END
	done
}

@test "members drop what is theirs to drop, the same each time" {
	load-images -n 2 -s 32 --classes @sample/CLASSES sample/train-images-idx3-ubyte.gz >work/few.ts
	train-ckpt -a mobilenet_v2-small -e 1 -b 20 --lr 0 -o work/net.tar <work/few.ts
	cat work/net.tar work/net.tar >work/twice.tar
	for run in a b; do # one batch of all images as they are: nothing else is drawn
		train-ckpt -i work/twice.tar -e 1 --lr 0.1 -b 20 --crop none --flip 0 --only 0 -o work/0$run.tar <work/few.ts
	done
	train-ckpt -i work/twice.tar -e 1 --lr 0.1 -b 20 --crop none --flip 0 --only 1 -o work/1.tar <work/few.ts
	cmp work/0a.tar work/0b.tar
	python <<-'END'
	p, q = (members(f"work/{k}.tar")["0/1.ts"][1] for k in ("0a", "1"))
	far = np.abs(p["classifier.1.weight"] - q["classifier.1.weight"]).max()
	near = np.abs(p["features.0.1.running_mean"] - q["features.0.1.running_mean"]).max()
	assert far > 1e-3 and near < 1e-5, (far, near)
	END
}

@test "fine-tuning learns; a checkpoint by itself is a pool of one" {
	train-ckpt -i 0/1.ts -e 5 --lr 0.05 -b 20 -t val.ts -o work/one.tar <train.ts
	[ "$(tar tf work/one.tar | head -n 1)" = 0/5.ts ]
	python <<-'END'
	(head, _), (was, _) = members("work/one.tar")["0/5.ts"], members("base.tar")["0/1.ts"]
	assert head["train"]["epochs"] == 5 and head["train"]["lr"] == 0.05
	assert head["train"]["accuracy"] > was["train"]["accuracy"] + 0.05, (head["train"], was["train"])
	END
}

@test "members of no epochs get the average over one pass of what each batch shows" {
	train-ckpt -i base.tar --only 3 -e 0 -b 24 --crop none --flip 0 -o work/anew.tar <train.ts
	python <<-'END'
	head, x, y = images("train.ts")
	x = np.pad((x / 255.0 - head["mean"][0]) / head["std"][0], ((0, 0), (0, 0), (3, 3), (3, 3)))[:, 0]
	win = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
	was, got = members("base.tar")["0/4.ts"][1], members("work/anew.tar")["0/4.ts"][1]
	for k in was:
	    assert "running" in k or (was[k] == got[k]).all(), k
	z = np.einsum("nhwij,oij->nohw", win, was["features.0.weight"][:, 0].astype(float))
	z += was["features.0.bias"].astype(float)[None, :, None, None]
	p, mean, var = order(len(x), 0, 0, 4), [], []
	for at in range(0, len(x), 24):  # the last batch has 8 images and counts as the others do
	    b = z[p[at:at + 24]]
	    mean.append(b.mean((0, 2, 3)))
	    var.append(b.var((0, 2, 3)) * b[:, 0].size / (b[:, 0].size - 1))
	for key, want in ("mean", np.mean(mean, 0)), ("var", np.mean(var, 0)):
	    have = got["features.1.running_" + key]
	    assert np.allclose(have, want, rtol=1e-5, atol=1e-6), (key, np.abs(have - want).max())
	    assert not np.allclose(have, was["features.1.running_" + key], rtol=1e-3, atol=1e-3)
	# weights of batches by their size would be seen here
	sizes = [min(24, len(x) - at) for at in range(0, len(x), 24)]
	assert not np.allclose(got["features.1.running_mean"], np.average(mean, axis=0, weights=sizes), rtol=1e-5, atol=1e-6)
	END
}

@test "recalibrated, deeper layers have the statistics of the images too; --no-recalibrate leaves them" {
	train-ckpt -i pruned.tar -e 0 -b 200 --crop none --flip 0 -o work/anew.tar <train.ts
	bnstats -p work/anew.tar --recompute -o work/all.ts <train.ts
	bnstats -p work/anew.tar -o work/own.ts
	bnstats -p pruned.tar -o work/was.ts
	python <<-'END'
	own, all_, was = (tstream.read(f"work/{n}.ts")[1] for n in ("own", "all", "was"))
	assert len(own) == len(all_) == 10
	for f, g, w in zip(own, all_, was):
	    for key in "mean", "var":
	        assert np.allclose(f[key], g[key], rtol=2e-3, atol=2e-3), (f["member"], f["layer"], key)
	assert any(np.abs(f["mean"] - w["mean"]).max() > 0.05 for f, w in zip(own, was))
	END
	tune -e 0 --no-recalibrate -o work/stale.tar <train.ts
	python <<-'END'
	was, got = members("pruned.tar"), members("work/stale.tar")
	for name, (_, p) in got.items():
	    assert all((p[k] == was[name][1][k]).all() for k in p)
	END
}

@test "images of another class order and normalisation fine-tune to the same network" {
	python <<-'END'
	head, x, y = images("train.ts")
	head = {k: v for k, v in head.items() if k not in ("tensorstream", "kind", "xxh3")}
	w = tstream.Writer("work/turned.ts", "images", {**head, "classes": head["classes"][::-1], "mean": [0.5], "std": [0.2]})
	w.put({"images.u8": x, "labels": 9 - y})
	w.finish()
	END
	tune -e 1 --lr 0.01 -t val.ts --only 1 -o work/a.tar <train.ts
	tune -e 1 --lr 0.01 -t val.ts --only 1 -o work/b.tar <work/turned.ts
	python <<-'END'
	(a, p), (b, q) = (members(f"work/{n}.tar")["3/1.ts"] for n in "ab")
	assert a["train"] == b["train"] and all((p[k] == q[k]).all() for k in p)
	assert a["classes"] == b["classes"] and a["mean"] == b["mean"]
	END
}

@test "what does not fit is refused, with the member's name" {
	python <<-'END'
	head, x, y = images("train.ts")
	head = {k: v for k, v in head.items() if k not in ("tensorstream", "kind", "xxh3")}
	def write(path, x, y, **changes):
	    w = tstream.Writer(path, "images", {**head, **changes})
	    w.put({"images.u8": x, "labels": y})
	    w.finish()
	write("work/named.ts", x, y, classes=list("abcdefghij"))
	write("work/fewer.ts", x[y < 9], y[y < 9], classes=head["classes"][:9])
	write("work/more.ts", x, y, classes=head["classes"] + ["hat"])
	write("work/small.ts", x[:, :, ::2, ::2].copy(), y, shape=[1, 14, 14])
	END
	refused "member 3/0.ts: unknown class" tune -e 1 -o out <work/named.ts
	refused "member 3/0.ts: knows 10 classes by name, the images have 9" tune -e 1 -o out <work/fewer.ts
	refused "member 3/0.ts: knows 10 classes by name, the images have 11" tune -e 1 -o out <work/more.ts
	refused "member 3/0.ts: images of 1x14x14" tune -e 1 -o out <work/small.ts
	refused "unknown class 'hat'" tune -e 1 -t work/more.ts -o out <train.ts
	refused "no member at place 5, the last is at 4" tune -e 1 --only 0,5 -o out <train.ts
	refused "3/2.ts: epoch 1, step " tune -e 1 --lr 1e6 --only 2 -o out <train.ts
	head -c 60000 pruned.tar >work/cut.tar
	refused "work/cut.tar" train-ckpt -i work/cut.tar -e 1 -o out <train.ts
	refused "nowhere.tar" train-ckpt -i nowhere.tar -e 1 -o out <train.ts
	refused "kind" train-ckpt -i val.ts -e 1 -o out <train.ts
	head -c 20000 train.ts >work/cut.ts
	refused "<stdin>" tune -e 1 -o out <work/cut.ts
}

# epochs_of LOG: place and epoch of all that were trained
epochs_of()
{
	jq -r 'select(.event == "epoch") | "\(.number) \(.epoch)"' "$1"
}

@test "a run that is killed goes on within a member, byte for byte" {
	tune -e 2:3 --no-recalibrate -t val.ts --log work/whole.json -o work/whole.tar <train.ts
	for after in 1 4; do # epochs: in the first member, and behind it
		rm -f work/state work/log.json
		(exec train-ckpt -i pruned.tar -b 20 --threads 1 -e 2:3 --no-recalibrate -t val.ts --state work/state \
		    --log work/log.json -o work/killed.tar <train.ts) &
		until [ -e work/log.json ] && [ "$(epochs_of work/log.json | wc -l)" -ge $after ] || ! kill -0 $!; do
			sleep 0.01
		done
		kill -9 $!
		wait $! || [ $? -eq 137 ]
		[ ! -e work/killed.tar ]
		tune -e 2:3 --no-recalibrate -t val.ts --state work/state --log work/log.json -o work/again.tar <train.ts
		cmp work/whole.tar work/again.tar
		# All of them, and at most one of them twice.
		epochs_of work/whole.json | cmp - <(epochs_of work/log.json | sort -u)
		[ "$(epochs_of work/log.json | wc -l)" -le $(($(epochs_of work/whole.json | wc -l) + 1)) ]
	done
	# What is done is there for any choice of members.
	tune -e 2:3 --no-recalibrate -t val.ts --state work/state --only 3,1 -v -o work/two.tar <train.ts 2>work/said
	run ! grep "epochs at" work/said
	tune -e 2:3 --no-recalibrate -t val.ts --only 1,3 -o work/these.tar <train.ts
	cmp work/two.tar work/these.tar
}

@test "a state of another run, of other images or of another pool is refused" {
	tune -e 1 --only 0 --state work/state -o work/a.tar <train.ts
	refused "another lr" tune -e 1 --lr 0.03 --state work/state -o out <train.ts
	refused "over another pool" train-ckpt -i base.tar -b 20 -e 1 --threads 1 --state work/state -o out <train.ts
	refused "another images" tune -e 1 --state work/state -o out <val.ts
}

@test "wrong command lines exit 2" {
	for words in "-i pruned.tar" "-i pruned.tar -a convnet2-16 -e 1" "-i pruned.tar -e 2:1" "-i pruned.tar -e 1:" \
	    "-i pruned.tar -e 1 -f 1" "-i pruned.tar -e 1 -k 1" "-i pruned.tar -e 1 -l 1" \
	    "-i pruned.tar -e 1 --only x" "-i pruned.tar -e 1 --only ," "-i pruned.tar -e 1 --lr 0:0.1" \
	    "-i pruned.tar -e 1 --lr 0.1:" "-a convnet2-16 -e 0:2" "-a convnet2-16 -e -1" "-a convnet2-16 -e 1 --only 0" \
	    "-a convnet2-16 -e 1 --lr 0.1:0.2" "-a convnet2-16 -e 1 --no-recalibrate"; do
		read -ra argv <<<"$words"
		run train-ckpt "${argv[@]}" -o out <train.ts
		[ "$status" -eq 2 ] || { echo "$words: $status"; return 1; }
		[ ! -e out ]
	done
}
