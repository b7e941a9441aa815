#!/usr/bin/env bats
# likeness against NumPy: a network that is worked out by hand, and the labels of softlabel.

bats_require_minimum_version 1.5.0

setup_file()
{
	root=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	export root PATH="$root/build/bin:$PATH" LC_ALL=C OMP_NUM_THREADS=1
	cd "$BATS_FILE_TMPDIR" || return
	load-images -n 12 "$root/pipelines/sample/train-images-idx3-ubyte.gz" >train.ts
	load-images -n 3 "$root/pipelines/sample/t10k-images-idx3-ubyte.gz" >val.ts
	train-ckpt -a convnet1-8 -e 2 -b 16 --lr 0.02 <train.ts >pool.tar
	train-ckpt -a convnet1-8 -e 1 -b 16 --lr 0.02 --seed 1 <train.ts >other.tar
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

# runs the Python on standard input, which has objects and near
python()
{
	/usr/bin/python3 - <<END
import json, tarfile
import msgpack, msgpack_numpy
import numpy as np

def objects(f):
    return list(msgpack.Unpacker(f, object_hook=msgpack_numpy.decode, max_buffer_size=1 << 30))

def near(a, b, eps):
    assert abs(a - b) <= eps, (a, b)

$(cat)
END
}

@test "cosines are those of the last features" {
	# In the normalisation that the network was trained with. 28x28 images are padded to 32x32 by the first layer.
	tscut -i 0-59 train.ts | likeness -p pool.tar --json >got.json
	python <<-'END'
	o = objects(open("train.ts", "rb"))
	h, x = o[0], np.concatenate([f["images.u8"] for f in o[1:-1]])[:60]
	y = np.concatenate([f["labels"] for f in o[1:-1]])[:60]
	x = (x[:, 0] / 255.0 - h["mean"][0]) / h["std"][0]
	t = tarfile.open("pool.tar")
	got = json.load(open("got.json"))
	assert len(got["members"]) == 2
	for m in got["members"]:
	    p = {k: v for f in objects(t.extractfile(m["member"]))[1:-1] for k, v in f.items() if k != "xxh3"}
	    conv = next(k for k, v in p.items() if v.ndim == 4)
	    norm = next(k for k in p if k.endswith("running_mean")).rsplit(".", 1)[0]
	    v = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (3, 3), (3, 3))), (3, 3), (1, 2))
	    f = np.einsum("nhwij,oij->nohw", v, p[conv][:, 0])
	    per = lambda name: p[name][:, None, None]
	    if conv.replace("weight", "bias") in p:
	        f += per(conv.replace("weight", "bias"))
	    f = (f - per(norm + ".running_mean")) / np.sqrt(per(norm + ".running_var") + 1e-5)
	    f = np.maximum(f * per(norm + ".weight") + per(norm + ".bias"), 0)
	    f = f.reshape(60, 8, f.shape[2] // 2, 2, f.shape[3] // 2, 2).mean((3, 5)).reshape(60, -1)
	    f /= np.linalg.norm(f, axis=1, keepdims=True)
	    c, same = f @ f.T, y[:, None] == y[None]
	    near(m["within"], c[same & ~np.eye(60, dtype=bool)].mean(), 1e-4)
	    near(m["between"], c[~same].mean(), 1e-4)
	near(got["within"], np.mean([m["within"] for m in got["members"]]), 1e-5)
	assert got["kl"] is None
	END
}

@test "nothing is like an image without features, itself not either" {
	tar xOf pool.tar 0/2.ts >one.ts
	PYTHONPATH=$root/tests python <<-'END'
	import tstream
	h, frames = tstream.read("one.ts")
	w = tstream.Writer("dead.ts", "checkpoint", h)
	for f in frames:
	    w.put({k: v if k.startswith("classifier") or k.endswith("running_var") else v * np.float32(0) for k, v in f.items()})
	w.finish()
	END
	[ "$(likeness -p dead.ts <val.ts | cut -f 2,3 | sort -u)" = "0.0000	0.0000" ]
}

@test "the distance is that of the probabilities" {
	likeness -p other.tar -q pool.tar --json <val.ts >got.json
	for pool in other pool; do
		cutmix -e 1 -b 30 --crop none --flip 0 --mix none <val.ts | softlabel -p $pool.tar --mean probs >$pool.ts
	done
	python <<-'END'
	def probs(path):
	    f = objects(open(path, "rb"))[-2]
	    z = next(v for v in f.values() if getattr(v, "shape", None) == (30, 10)).astype(float)
	    e = np.exp(z - z.max(1, keepdims=True))
	    return e / e.sum(1, keepdims=True)
	p, q = probs("pool.ts"), probs("other.ts")
	kl = json.load(open("got.json"))["kl"]
	near(kl, (p * np.log(p / q)).sum(1).mean(), 2e-3)
	assert kl > 0.01, kl
	END
	likeness -p other.tar -q other.tar <val.ts | tail -n 1 | grep -qE '0\.0000$'
}

@test "lines, and what cannot be said" {
	likeness -p pool.tar <val.ts >got
	[ "$(cut -f 1 got | tr '\n' ' ')" = "0/1.ts 0/2.ts mean " ]
	load-images -n 1 "$root/pipelines/sample/t10k-images-idx3-ubyte.gz" | likeness -p pool.tar | tail -n 1 |
		grep -qE '^mean	-	[0-9.]+	-$'
}

@test "what is refused" {
	run -2 likeness <val.ts
	run -2 likeness -p pool.tar extra <val.ts
	run -2 likeness -p pool.tar --header <val.ts
	run -2 likeness -p pool.tar --seed 1 <val.ts
	run -1 likeness -p none.tar <val.ts
	run -1 likeness -p pool.tar <pool.tar
	head -c 3000 val.ts >short.ts
	run -1 likeness -p pool.tar <short.ts
	run -1 likeness -p pool.tar -q none.tar <val.ts
}
