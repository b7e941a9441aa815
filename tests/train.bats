#!/usr/bin/env bats
# train-ckpt and bnstats on the sample that ships: pools, resumption, statistics, and what both refuse.

bats_require_minimum_version 1.5.0
load tools/refused.bash
load tools/page.bash

setup_file()
{
	root=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	export root PATH="$root/build/bin:$PATH" LC_ALL=C
	cd "$BATS_FILE_TMPDIR" || return
	load-images -n 20 "$root/pipelines/sample/train-images-idx3-ubyte.gz" >train.ts
	load-images -n 10 "$root/pipelines/sample/t10k-images-idx3-ubyte.gz" >val.ts
	train -e 3 -t val.ts <train.ts >pool.tar
}


setup()
{
	cd "$BATS_FILE_TMPDIR" || return
	rm -rf out work
	mkdir work
}

# runs the Python on standard input, which has read, frames, members (of a pool) and rewrite
python()
{
	PYTHONPATH="$root/tests" PYTHONDONTWRITEBYTECODE=1 "${PYTHON:-/usr/bin/python3}" - "$@" <<END
import io, sys, tarfile
import msgpack, msgpack_numpy
import numpy as np
import tstream

def objects(f):
    return list(msgpack.Unpacker(f, object_hook=msgpack_numpy.decode, max_buffer_size=1 << 30))

def read(path):  # an image stream: header, pixels, labels
    o = objects(open(path, "rb"))
    return o[0], np.concatenate([f["images.u8"] for f in o[1:-1]]), np.concatenate([f["labels"] for f in o[1:-1]])

def frames(path):
    return objects(open(path, "rb"))[1:-1]

def members(path):  # name -> header, parameters
    t = tarfile.open(path)
    out = {}
    for name in t.getnames():
        if name != "MANIFEST":
            o = objects(t.extractfile(name))
            out[name] = o[0], {k: v for f in o[1:-1] for k, v in f.items() if k != "xxh3"}
    return out

def rewrite(path, header, x, y):
    w = tstream.Writer(path, "images", {k: v for k, v in header.items() if k not in ("tensorstream", "kind", "xxh3")})
    w.put({"images.u8": x, "labels": y})
    w.finish()

$(cat)
END
}

train()
{
	train-ckpt -a convnet2-16 -b 16 --lr 0.02 --flip 0 --threads 1 "$@"
}

listed()
{
	tar tf "$1" | tr '\n' ' '
}

@test "a short run learns, and its checkpoints say how well" {
	[ "$(listed pool.tar)" = "0/1.ts 0/2.ts 0/3.ts MANIFEST " ]
	python <<-'END'
	pool = members("pool.tar")
	got = [h["train"] for h, _ in pool.values()]
	assert [t["epoch"] for t in got] == [1, 2, 3] and {t["epochs"] for t in got} == {3}, got
	assert got[2]["accuracy"] > 0.35, got  # chance: 0.1
	assert got[2]["loss"] < got[0]["loss"], got
	head = read("train.ts")[0]
	for h, p in pool.values():
	    assert h["classes"] == head["classes"] and h["mean"] == head["mean"] and h["shape"] == head["shape"]
	    assert [e["program"] for e in h["history"]] == ["load-images", "train-ckpt"]
	    assert "path" not in str(h["history"]) and h["history"][1]["args"]["seed"] == 0
	END
}

@test "which epochs are kept" {
	train -e 12 -f 2 -k 4 -l 9 <train.ts >work/a.tar
	[ "$(listed work/a.tar)" = "0/02.ts 0/06.ts 0/09.ts MANIFEST " ]
	train -e 12 -k 3,1, -l 4 --seed 7 <train.ts >work/b.tar
	[ "$(listed work/b.tar)" = "7/01.ts 7/03.ts 7/04.ts MANIFEST " ]
}

@test "the same seed gives the same bytes, another one others" {
	train -e 3 -t val.ts <train.ts | cmp - pool.tar
	train -e 3 -t val.ts -o out <train.ts
	cmp out pool.tar
	train -e 3 -t val.ts --seed 1 <train.ts >work/other.tar
	run ! cmp -s work/other.tar pool.tar
	python <<-'END'
	a, b = members("pool.tar")["0/3.ts"][1], members("work/other.tar")["1/3.ts"][1]
	assert any((a[k] != b[k]).any() for k in a)
	END
}

@test "every option of training reaches it" {
	train -e 1 <train.ts >work/plain.tar
	for how in "--opt adam --lr 0.001" "--opt adamw --lr 0.001" --nesterov "--momentum 0" "--wd 0.1" "--sched const" \
	    "--sched cosine:0.5" "--sched step:0.5" "--sched smooth" "--crop none" "--crop rrc:0.5" "--flip 1" \
	    "--dsa color_cutout" "-b 32"; do
		read -ra words <<<"$how"
		train -e 1 "${words[@]}" <train.ts >work/"${how// /}".tar
	done
	python <<-'END'
	import glob
	w = {p: members(p)["0/1.ts"][1]["classifier.weight"].tobytes() for p in glob.glob("work/*.tar")}
	assert len(w) == 15 and len(set(w.values())) == 15, sorted(w)
	END
}

@test "a run that is killed goes on where it was, byte for byte" {
	train -e 6 -k 2 -t val.ts <train.ts >work/whole.tar
	(exec train-ckpt -a convnet2-16 -b 16 --lr 0.02 --flip 0 --threads 1 -e 6 -k 2 -t val.ts --state work/state \
	    -o work/killed.tar <train.ts) &
	while [ ! -e work/state ] && kill -0 $!; do
		sleep 0.01
	done
	kill -9 $!
	wait $! || [ $? -eq 137 ]
	[ -e work/state ]
	[ ! -e work/killed.tar ]
	train -e 6 -k 2 -t val.ts --state work/state -v <train.ts >work/again.tar 2>work/said
	cmp work/whole.tar work/again.tar
	run ! grep 'epoch 1/' work/said
	grep 'epoch 6/6' work/said
	train -e 6 -k 2 -t val.ts --state work/state <train.ts | cmp - work/whole.tar
}

@test "a state of another run is refused" {
	train -e 1 --state work/state <train.ts >work/a.tar
	refused "another lr" train -e 1 --state work/state --lr 0.03 -o out <train.ts
	refused "another epochs" train -e 2 --state work/state -o out <train.ts
	refused "other images" train -e 1 --state work/state -o out <val.ts
	train -e 1 --dsa flip --state work/flipped <train.ts >work/b.tar
	refused "run with dsa" train -e 1 --state work/flipped -o out <train.ts
	refused "none/state: No such file" train -e 1 --state none/state -o out <train.ts
	head -c 5000 work/state >work/cut
	refused "work/cut" train -e 1 --state work/cut -o out <train.ts
	refused "kind images" train -e 1 --state val.ts -o out <train.ts
	train -e 1 --state work/state -o out <train.ts
	cmp out work/a.tar
}

@test "a validation set is matched by class name, in the normalisation of training" {
	python <<-'END'
	h, x, y = read("val.ts")
	rewrite("work/twice.ts", {**h, "classes": ["x"] + h["classes"][1:9] + ["x"]}, x, y)
	h["classes"] = h["classes"][::-1]
	h["mean"] = [0.5]
	h["std"] = [0.5]
	rewrite("work/turned.ts", h, x, 9 - y)
	END
	train -e 1 -t val.ts <train.ts >work/a.tar
	train -e 1 -t work/turned.ts <train.ts >work/b.tar
	python <<-'END'
	a, b = (members(f"work/{p}.tar")["0/1.ts"][0]["train"] for p in "ab")
	assert a == b, (a, b)
	END
	# In a network's classes too, of which the images are some.
	train -e 1 <work/twice.ts >work/twice.tar
	refused "class 'x' stands twice" train -e 1 -t work/twice.ts -o out <work/twice.ts
}

@test "training refuses what it cannot train on" {
	train -e 1 -o out <train.ts
	rm out
	refused "empty" train -e 1 -o out </dev/null
	for n in 10 200 20000 $(($(stat -c %s train.ts) - 1)); do
		head -c "$n" train.ts >work/cut.ts
		refused "<stdin>" train -e 1 -o out <work/cut.ts
	done
	bnstats -p pool.tar >work/stats.ts
	refused "kind stats" train -e 1 -o out <work/stats.ts
	refused "nowhere.ts" train -e 1 -t nowhere.ts -o out <train.ts
	refused "regular file" train -e 1 -t <(cat val.ts) -o out <train.ts
	refused "pool.tar" train -e 1 -t pool.tar -o out <train.ts
	refused "nowhere/out" train -e 1 -o nowhere/out <train.ts
	python <<-'END'
	h, x, y = read("train.ts")
	rewrite("work/label.ts", h, x, y + 1)
	rewrite("work/small.ts", {**h, "shape": [1, 14, 14]}, x[:, :, ::2, ::2].copy(), y)
	rewrite("work/named.ts", {**h, "classes": list("abcdefghij")}, x, y)
	END
	refused "labels" train -e 1 -o out <work/label.ts
	refused "14x14" train -e 1 -t work/small.ts -o out <train.ts
	refused "unknown class" train -e 1 -t work/named.ts -o out <train.ts
	refused "epoch 1, step " train -e 1 --lr 1e6 -o out <train.ts
	printf 'x' | cat train.ts - >work/more.ts
	refused "<stdin>" train -e 1 -o out <work/more.ts
}

@test "a loss that is not finite leaves the last good state" {
	train -e 3 --state work/state <train.ts >/dev/null
	python <<-'END'
	o = objects(open("work/state", "rb"))
	head = {k: v for k, v in o[0].items() if k not in ("tensorstream", "kind", "xxh3")}
	w = tstream.Writer("work/poisoned", "state", {**head, "epoch": 1, "step": 13})
	for f in o[1:-1]:
	    data = f["data"].copy()
	    if f["name"] == "theta":
	        data.view(np.float32)[:] = np.nan
	    w.put({"data": data, "name": f["name"]})
	w.finish()
	END
	cp work/poisoned work/before
	refused "epoch 2, step 1: loss is not finite" train -e 3 --state work/poisoned -o out <train.ts
	# One step is an epoch here: its loss is still one.
	refused "epoch 1: the validation loss is not finite" train -b 10000 -e 1 --lr 1e6 --wd 1e6 -a convnet3-16 -t val.ts \
		-o out <train.ts
	cmp work/poisoned work/before
}

@test "a full disk and a closed pipe are errors" {
	[ -e /dev/full ] || skip
	refused "space" train -e 1 -o /dev/full <train.ts
	refused "space" bnstats -p pool.tar -o /dev/full
	train -e 1 <train.ts 2>work/said | true
	[ "${PIPESTATUS[0]}" -eq 1 ]
	[ "$(wc -l <work/said)" -eq 1 ]
}

@test "wrong command lines exit 2" {
	for words in "" "-e 3" "-a convnet2-16" "-a convnet2-16 -e -1" "-a convnet2-16 -e 3 -l 4" "-a convnet2-16 -e 3 x" \
	    "-a convnet2-16 -e 3 -f 2 -k 1,2" "-a convnet2-16 -e 3 --crop pad:0" "-a convnet2-16 -e 3 --sched cos" \
	    "-a convnet2-16 -e 3 --opt lion" "-a convnet2-16 -e 3 --dsa blur" "-a convnet2-16 -e 3 --flip 2"; do
		read -ra argv <<<"$words"
		run train-ckpt "${argv[@]}" <train.ts
		[ "$status" -eq 2 ] || { echo "$words: $status"; return 1; }
	done
	for words in "" "-p" "-p pool.tar x" "-p pool.tar --running" "-p pool.tar --flip 0.5" "-p pool.tar -b 0"; do
		read -ra argv <<<"$words"
		run bnstats "${argv[@]}" <train.ts
		[ "$status" -eq 2 ] || { echo "$words: $status"; return 1; }
	done
	train-ckpt -h | grep -q usage
	bnstats -V | grep -q teddy
}

@test "running statistics are the checkpoints' own" {
	bnstats -p pool.tar </dev/null >work/stats.ts
	python <<-'END'
	pool, got = members("pool.tar"), frames("work/stats.ts")
	assert [(f["member"], f["layer"]) for f in got] == [(m, l) for m in pool for l in (0, 1)]
	assert [f["teacher"] for f in got] == [0, 0, 1, 1, 2, 2]
	for f in got:
	    for key in "mean", "var":
	        want = pool[f["member"]][1][f'{f["node"]}.running_{key}']
	        assert (f[key] == want).all()
	END
}

@test "recomputed and class-wise statistics are the images' own" {
	bnstats -p pool.tar --recompute <train.ts >work/all.ts
	bnstats -p pool.tar --classwise <train.ts >work/class.ts
	bnstats -p pool.tar --classwise --running <train.ts >work/running.ts
	bnstats -p pool.tar >work/run.ts
	python <<-'END'
	h, x, y = read("train.ts")
	x = np.pad((x / 255.0 - h["mean"][0]) / h["std"][0], ((0, 0), (0, 0), (3, 3), (3, 3)))[:, 0]
	win = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # 28x28, padded by 3: 32x32 windows
	pool, group = members("pool.tar"), {}
	for name in "all", "class", "running", "run":
	    group[name] = frames(f"work/{name}.ts")
	    assert len(group[name]) == 6
	for a, c, r, p in zip(*group.values()):
	    n = np.bincount(y)[:, None] / len(y)  # shares of the classes
	    mean = (n * c["class_mean"].astype(float)).sum(0)
	    var = (n * (c["class_var"].astype(float) + c["class_mean"].astype(float) ** 2)).sum(0) - mean ** 2
	    for f in a, c:
	        assert np.allclose(f["mean"], mean, rtol=1e-5, atol=1e-6), f["node"]
	        assert np.allclose(f["var"], var, rtol=1e-4, atol=1e-6), f["node"]
	    assert (r["mean"] == p["mean"]).all() and (r["var"] == p["var"]).all()
	    assert (r["class_mean"] == c["class_mean"]).all() and "class_mean" not in a
	    if a["layer"] == 0:
	        q = pool[a["member"]][1]
	        z = np.einsum("nhwij,oij->nohw", win, q["features.0.weight"][:, 0].astype(float))
	        z += q["features.0.bias"].astype(float)[None, :, None, None]
	        assert np.allclose(z.mean((0, 2, 3)), a["mean"], rtol=1e-4, atol=1e-5)
	        assert np.allclose(z.var((0, 2, 3)), a["var"], rtol=1e-4, atol=1e-5)
	        k = y == 3
	        assert np.allclose(z[k].mean((0, 2, 3)), c["class_mean"][3], rtol=1e-4, atol=1e-5)
	        assert np.allclose(z[k].var((0, 2, 3)), c["class_var"][3], rtol=1e-4, atol=1e-5)
	END
}

@test "encoded images give the statistics of their pixels" {
	load-images -n 20 "$root/pipelines/sample/train-images-idx3-ubyte.gz" | save-images --format folder -o work/folder
	load-images work/folder >work/pixels.ts
	load-images --encoded work/folder >work/encoded.ts
	bnstats -p pool.tar --classwise <work/pixels.ts >work/a.ts
	bnstats -p pool.tar --classwise <work/encoded.ts >work/b.ts
	python <<-'END'
	a, b = frames("work/a.ts"), frames("work/b.ts")
	assert len(a) == len(b) == 6
	for f, g in zip(a, b):
	    assert all((f[k] == g[k]).all() for k in ("mean", "var", "class_mean", "class_var"))
	END
}

@test "statistics do not depend on batches, frames or threads" {
	bnstats -p pool.tar --classwise --crop pad:4 --flip 0.5 <train.ts >work/a.ts
	bnstats -p pool.tar --classwise --crop pad:4 --flip 0.5 -b 7 --threads 3 <train.ts | cmp - work/a.ts
	bnstats -p pool.tar --classwise --crop pad:4 --flip 0.5 --seed 1 <train.ts >work/b.ts
	run ! cmp -s work/a.ts work/b.ts
}

@test "teachers are fitted to the images: normalisation and order of the classes" {
	python <<-'END'
	h, x, y = read("train.ts")
	rewrite("work/turned.ts", {**h, "classes": h["classes"][::-1], "mean": [0.5], "std": [0.25]}, x, 9 - y)
	END
	bnstats -p pool.tar --classwise <train.ts >work/a.ts
	bnstats -p pool.tar --classwise <work/turned.ts >work/b.ts
	python <<-'END'
	for a, b in zip(frames("work/a.ts"), frames("work/b.ts")):
	    for key in "class_mean", "class_var":
	        assert np.allclose(a[key], b[key][::-1], rtol=1e-4, atol=1e-5), np.abs(a[key] - b[key][::-1]).max()
	        assert not np.allclose(a[key], b[key], rtol=1e-2)
	END
}

@test "statistics refuse what does not fit" {
	bnstats -p pool.tar --classwise -o out <train.ts
	rm out
	refused "nowhere.tar" bnstats -p nowhere.tar -o out
	head -c 60000 pool.tar >work/cut.tar
	refused "work/cut.tar" bnstats -p work/cut.tar -o out
	head -c 20000 train.ts >work/cut.ts
	refused "<stdin>" bnstats -p pool.tar --recompute -o out <work/cut.ts
	refused "kind" bnstats -p train.ts -o out
	refused "empty" bnstats -p pool.tar --classwise -o out </dev/null
	bnstats -p pool.tar >work/stats.ts
	refused "kind stats" bnstats -p pool.tar --classwise -o out <work/stats.ts
	python <<-'END'
	h, x, y = read("train.ts")
	rewrite("work/label.ts", h, x, y - 1)
	rewrite("work/small.ts", {**h, "shape": [1, 14, 14]}, x[:, :, ::2, ::2].copy(), y)
	rewrite("work/colour.ts", {**h, "shape": [3, 28, 28], "mean": [0.5] * 3, "std": [0.5] * 3}, x.repeat(3, 1), y)
	rewrite("work/named.ts", {**h, "classes": list("abcdefghij")}, x, y)
	rewrite("work/fewer.ts", {**h, "classes": h["classes"][:9]}, x[y < 9], y[y < 9])
	rewrite("work/without.ts", h, x[y != 4], y[y != 4])
	END
	refused "labels" bnstats -p pool.tar --recompute -o out <work/label.ts
	refused "14x14" bnstats -p pool.tar --recompute -o out <work/small.ts
	refused "3x28x28" bnstats -p pool.tar --recompute -o out <work/colour.ts
	refused "0/1.ts" bnstats -p pool.tar --recompute -o out <work/named.ts
	refused "10 classes" bnstats -p pool.tar --recompute -o out <work/fewer.ts
	refused "class '4' has no image" bnstats -p pool.tar --classwise -o out <work/without.ts
	bnstats -p pool.tar --recompute -o out <work/without.ts
	rm out
	train -e 1 -a convnet2-16-in <train.ts >work/in.tar
	refused "no batch norm" bnstats -p work/in.tar -o out
}

@test "threads by the environment are those of --threads, and more than one" {
	for n in 1 2 3; do
		train-ckpt -a convnet2-8 -e 1 -b 100 --threads $n -o work/$n.tar <train.ts
		OMP_NUM_THREADS=$n train-ckpt -a convnet2-8 -e 1 -b 100 <train.ts | cmp - work/$n.tar
		OMP_NUM_THREADS=$n OMP_DYNAMIC=true train-ckpt -a convnet2-8 -e 1 -b 100 <train.ts | cmp - work/$n.tar
	done
	run -1 cmp -s work/1.tar work/2.tar # sums are made in another order
}

@test "a norm that sees one value a channel keeps its running statistics" {
	load-images -s 8 -n 1 "$root/pipelines/sample/train-images-idx3-ubyte.gz" >work/tiny.ts
	for device in cpu cuda; do # 8, 4 and 2 pixels, and from there on one
		TEDDY_CUDA=$root/build/emu/teddy-cuda.so train-ckpt --device $device -a resnet18 -e 1 -b 1 --lr 0.001 -o work/$device.tar \
			<work/tiny.ts
		python work/$device.tar <<-'END'
		((h, p),) = members(sys.argv[1]).values()
		still = lambda n: (p[n + ".running_mean"] == 0).all() and (p[n + ".running_var"] == 1).all()
		norms = [k[:-len(".running_var")] for k in p if k.endswith(".running_var")]
		assert len(norms) == 20 and not still("bn1") and not still("layer1.0.bn1")
		assert still("layer3.0.bn1") and still("layer4.1.bn2") and still("layer4.0.downsample.1"), [n for n in norms if still(n)]
		END
	done
}

@test "the examples in the man pages run" {
	cp train.ts val.ts work
	cd work
	for page in train-ckpt bnstats; do
		page_commands $page.1 >examples
		[ -s examples ]
		while IFS= read -r line; do
			echo "$line"
			OMP_NUM_THREADS=1 bash -c "$line" 3>&-
		done <examples
	done
	[ "$(listed pool.tar)" = "0/02.ts 0/04.ts 0/06.ts 0/08.ts 0/10.ts 0/12.ts 0/14.ts 0/16.ts MANIFEST " ]
	[ "$(listed early.tar)" = "0/01.ts 0/02.ts 0/03.ts MANIFEST " ]
	[ -s stats.ts ]
}
