#!/usr/bin/env bats
# Networks as safetensors files: in, out, there and back, and what does not fit.

bats_require_minimum_version 1.5.0
load tools/small.bash
load tools/refused.bash
load tools/page.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	cp "$root/tests/fixtures/types.safetensors" .
	load-images -n 3 --classes @sample/CLASSES -o train.ts sample/train-images-idx3-ubyte.gz
	train-ckpt -a convnet2-8 -e 1 -b 10 --lr 0.02 <train.ts | tar xO 0/1.ts >one.ts
	ckpt-export -o one.safetensors one.ts
	# the format from its description alone, to see it from outside
	cat >st.py <<-'END'
	import json, struct
	import numpy as np
	TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}
	def read(path):
	    data = open(path, "rb").read()
	    n, = struct.unpack("<Q", data[:8])
	    head, at, out = json.loads(data[8:8 + n]), 0, {}
	    meta = head.pop("__metadata__", {})
	    assert n % 8 == 0
	    for k, t in head.items():
	        a, b = t["data_offsets"]
	        assert a == at and set(t) == {"dtype", "shape", "data_offsets"}
	        at, x = b, np.frombuffer(data[8 + n + a:8 + n + b], TYPES[t["dtype"]]).reshape(t["shape"])
	        out[k] = (x.astype("<u4") << 16).view("<f4") if t["dtype"] == "BF16" else x
	    assert at == len(data) - 8 - n
	    return meta, out
	def write(path, meta, tensors):
	    head, data = {"__metadata__": meta}, b""
	    for k, x in tensors.items():
	        kind = next(t for t, n in TYPES.items() if n == x.dtype.str)
	        head[k] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [len(data), len(data) + x.nbytes]}
	        data += x.tobytes()
	    head = json.dumps(head).encode()
	    open(path, "wb").write(struct.pack("<Q", len(head)) + head + data)
	END
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
	export PYTHONPATH="$root/tests:$PWD"
}

@test "a file of the package safetensors becomes a checkpoint" {
	ckpt-import -a convnet1-3 -s 1x4x4 --classes bag,boot --mean 0.5 --std 0.25 types.safetensors >in.ts
	"$python" - <<-'END'
	import numpy as np, st, tstream
	h, frames = tstream.read("in.ts")
	assert h["classes"] == ["bag", "boot"] and h["mean"] == [0.5] and h["std"] == [0.25] and h["shape"] == [1, 4, 4], h
	assert h["net"]["arch"] == "convnet1-3" and h["net"]["classes"] == 2
	entry, = h["history"]
	assert entry["program"] == "ckpt-import" and set(entry["args"]) == {"a", "s", "model", "classes", "mean", "std"}, entry
	assert len(entry["args"]["model"]["xxh3"]) == 32
	names = [next(iter(f)) for f in frames]
	_, want = st.read("types.safetensors")
	assert set(want) - set(names) == {"features.1.num_batches_tracked"} and len(names) == 8
	for j, (k, f) in enumerate(zip(names, frames)):
	    x = f[k]
	    assert x.dtype == np.float32 and np.array_equal(x, want[k]), k
	    assert np.array_equal(x.ravel(), ((7 * np.arange(x.size) + 3 * j) % 33 - 16) / 16), k
	END
	tsinfo in.ts | grep -q 'net      convnet1-3, 1x4x4 -> 2, 62 parameters'
}

@test "names and normalisation are numbers and ImageNet's where none are given, classes come from a file too" {
	"$python" - <<-'END'
	import numpy as np, st
	shapes = {"features.0.weight": (4, 3, 3, 3), "features.0.bias": (4,), **{f"features.1.{k}": (4,) for k in
	          ("weight", "bias", "running_mean", "running_var")}, "classifier.weight": (12, 16), "classifier.bias": (12,)}
	st.write("m.safetensors", {}, {k: np.ones(s, "<f4") for k, s in shapes.items()})
	END
	ckpt-import -v -a convnet1-4 -s 3x4x4 -o a.ts m.safetensors 2>said
	grep -q '^ckpt-import: convnet1-4, 3x4x4 -> 12, ' said
	tsinfo --json a.ts >a.json
	seq -f 'kind %g, or so' 12 >names
	ckpt-import -a convnet1-4 -s 3x4x4 --classes @names m.safetensors >b.ts
	"$python" - <<-'END'
	import numpy as np, tstream
	h, g = tstream.read("a.ts")[0], tstream.read("b.ts")[0]
	assert h["classes"] == [str(i) for i in range(12)], h["classes"]
	assert np.allclose(h["mean"], [0.485, 0.456, 0.406]) and np.allclose(h["std"], [0.229, 0.224, 0.225])
	assert g["classes"] == [f"kind {i}, or so" for i in range(1, 13)]
	END
}

@test "out and in again is the same checkpoint, to a file and through a pipe" {
	[ "$(cat one.safetensors | md5sum)" = "$(ckpt-export <one.ts | md5sum)" ]
	ckpt-import one.safetensors | cmp - one.ts
	ckpt-import -o two.ts one.safetensors
	cmp two.ts one.ts
	# a change is told
	ckpt-import --classes a,b,c,d,e,f,g,h,i,j one.safetensors >named.ts
	tsinfo --history named.ts | grep -q 'ckpt-import .*--classes'
	"$python" -c '
import tstream
h, g = tstream.read("named.ts")[0], tstream.read("one.ts")[0]
assert h["classes"] == list("abcdefghij") and h["history"][:-1] == g["history"] and h["net"] == g["net"]'
}

@test "a network of widths that no architecture has goes out and in" {
	"$python" - <<-'END'
	import tstream
	h, frames = tstream.read("one.ts")
	p = {next(iter(f)): f[next(iter(f))] for f in frames}
	keep = {"features.0": [0, 2, 3, 6, 7], "features.4": [1, 2, 5]}
	for node in h["net"]["nodes"]:
	    if node["name"] in keep:
	        node["out"] = len(keep[node["name"]])
	for conv, norm in ("features.0", "features.1"), ("features.4", "features.5"):
	    for k in p:
	        if k.startswith((conv + ".", norm + ".")):
	            p[k] = p[k][keep[conv]]
	p["features.4.weight"] = p["features.4.weight"][:, keep["features.0"]]
	p["classifier.weight"] = p["classifier.weight"].reshape(10, 8, -1)[:, keep["features.4"]].reshape(10, -1)
	h["unknown"] = {"list": [1, 1.0, "\u2603", None, True]}
	w = tstream.Writer("pruned.ts", "checkpoint", h)
	for k, x in p.items():
	    w.put({k: x.copy()})
	w.finish()
	END
	ckpt-info pruned.ts | grep -q '^features.4 *conv 3x3 *3x'
	ckpt-export <pruned.ts >pruned.safetensors
	ckpt-import pruned.safetensors >again.ts
	"$python" -c '
import numpy as np, tstream
(a, x), (b, y) = tstream.read("pruned.ts"), tstream.read("again.ts")
assert a == b, (a, b)
assert len(x) == len(y) and all(list(f) == list(g) and all(np.array_equal(f[k], g[k]) for k in f) for f, g in zip(x, y))'
	ckpt-export <again.ts | cmp - pruned.safetensors
	refused 'does not fit convnet2-8: features.0.weight is (5,1,3,3), not (8,1,3,3) (and ' \
		ckpt-import -a convnet2-8 -s 1x28x28 --mean 0.5 --std 0.5 -o out pruned.safetensors
}

@test "parameters in parts: read by every program, and as the page says" {
	"$python" - <<-'END'
	import tstream
	h, frames = tstream.read("one.ts")
	w = tstream.Writer("parts.ts", "checkpoint", h)
	for f in frames:
	    (k, x), = f.items()
	    for row in range(0, len(x), 3):
	        w.put({k: x[row:row + 3].copy(), "row": row})
	w.finish()
	END
	ckpt-info parts.ts | sed 1d >said
	ckpt-info one.ts | sed 1d | diff - said
	ckpt-export parts.ts | cmp - one.safetensors
	# PyTorch's part in it is two functions that NumPy has too
	sed -n '/^import msgpack/,/^\.Ed/{/^\./!p}' "$root/man/checkpoint.5" | sed 's/, torch$//; s/50\.ts/parts.ts/
	    s/torch\.cat/numpy.concatenate/; s/torch\.tensor/numpy.array/g' >read.py
	[ "$(wc -l <read.py)" -eq 5 ]
	cat >>read.py <<-'END'
	import st
	want = st.read("one.safetensors")[1]
	assert set(want) == set(state) and all(numpy.array_equal(want[k], state[k]) for k in want)
	END
	"$python" read.py
}

@test "what is written is what the format says" {
	"$python" - <<-'END'
	import json, numpy as np, st, tstream
	meta, tensors = st.read("one.safetensors")
	h, frames = tstream.read("one.ts")
	assert meta.keys() == {"format", "teddy"} and meta["format"] == "pt" and json.loads(meta["teddy"]) == h
	assert list(tensors) == [next(iter(f)) for f in frames]
	for f in frames:
	    for k, x in f.items():
	        assert tensors[k].dtype == np.float32 and np.array_equal(tensors[k], x), k
	END
}

@test "16 bits: rounded to the nearest, told in the history, read again" {
	for type in f16 bf16; do
		ckpt-export --type $type one.ts >$type.safetensors
		ckpt-import $type.safetensors >$type.ts
		ckpt-export --type $type <$type.ts | cmp - $type.safetensors
	done
	"$python" - <<-'END'
	import numpy as np, st, tstream
	h, frames = tstream.read("one.ts")
	def bf16(x):
	    u = x.view("<u4").astype("<u8")
	    return ((u + 0x7fff + (u >> 16 & 1)) >> 16 << 16).astype("<u4").view("<f4")
	for kind, round in ("f16", lambda x: x.astype("<f2").astype("<f4")), ("bf16", bf16):
	    _, tensors = st.read(kind + ".safetensors")
	    g, again = tstream.read(kind + ".ts")
	    assert g["history"] == h["history"] + [{"program": "ckpt-export", "version": g["history"][-1]["version"],
	                                            "args": {"type": kind}}]
	    for f, a in zip(frames, again):
	        (k, x), (_, y) = *f.items(), *a.items()
	        assert np.array_equal(round(x), tensors[k].astype("<f4")) and np.array_equal(round(x), y), (kind, k)
	END
}

@test "the package safetensors reads what is written" {
	"$python" -c 'import safetensors.numpy' 2>/dev/null || skip "not installed"
	"$python" - <<-'END'
	import json, numpy as np, tstream
	from safetensors import safe_open
	h, frames = tstream.read("one.ts")
	with safe_open("one.safetensors", "np") as s:
	    assert set(s.keys()) == {next(iter(f)) for f in frames} and json.loads(s.metadata()["teddy"]) == h
	    assert all(np.array_equal(s.get_tensor(k), x) for f in frames for k, x in f.items())
	END
}

@test "a model that does not fit is refused with the first that differ" {
	import='ckpt-import -a convnet1-3 -s 1x4x4 --mean 0.5 --std 0.25 -o out'
	"$python" - <<-'END'
	import numpy as np, st
	_, t = st.read("types.safetensors")
	t = {k: x.astype("<f4") for k, x in t.items()}
	w, c = t["features.0.weight"], t["classifier.weight"]
	def put(name, **new):
	    new = {k.replace("_", "."): x for k, x in new.items()}
	    st.write(name + ".safetensors", {}, {k: x for k, x in {**t, **new}.items() if x is not None})
	put("same")
	put("missing", features_0_bias=None, classifier_bias=None)
	put("headless", classifier_weight=None)
	put("unexpected", features_7_bias=w, x=w, features_1_weight_orig=w)
	put("shape", features_0_weight=w[:2].copy(), classifier_weight=c[:, :5].copy())
	put("flat", features_0_weight=w.ravel())
	put("all", features_0_bias=None, x=w, features_1_weight=w)
	put("integer", features_0_bias=np.zeros(3, "<i8"))
	put("noclass", classifier_weight=c[:0].copy())
	for name, bad in ("nan", np.nan), ("infinity", -np.inf):
	    b = t["classifier.bias"].copy()
	    b[1] = bad
	    put(name, classifier_bias=b)
	st.write("large.safetensors", {}, {**t, "classifier.bias": np.array([0, 1e39])})
	END
	$import same.safetensors
	rm out
	refused 'does not fit convnet1-3: missing features.0.bias (and 1 more)' $import missing.safetensors
	refused 'missing classifier.weight; classifier.bias is (2), not (1)' $import headless.safetensors
	refused 'unexpected features.7.bias (and 2 more)' $import unexpected.safetensors
	refused 'features.0.weight is (2,1,3,3), not (3,1,3,3) (and 1 more)' $import shape.safetensors
	refused 'features.0.weight is (27), not (3,1,3,3)' $import flat.safetensors
	refused 'missing features.0.bias; unexpected x; features.1.weight is (3,1,3,3), not (3)' $import all.safetensors
	refused 'features.0.bias: of type I64' $import integer.safetensors
	refused 'classifier.weight: a classifier of 0 classes' $import noclass.safetensors
	refused 'classifier.bias: element 1 is no finite number' $import nan.safetensors
	refused 'classifier.bias: element 1 is no finite number' $import infinity.safetensors
	refused 'classifier.bias: element 1 is no finite number' $import large.safetensors
	refused '3 names, but the net has 2 outputs' $import --classes a,b,c types.safetensors
	refused 'it does not carry its graph: name the architecture with -a' ckpt-import -o out types.safetensors
	refused "2 numbers, but the net's images have 1 channels" ckpt-import --mean 0,0 --std 1,1 -o out one.safetensors
	# nothing that looks whole goes down a pipe either
	run -1 --separate-stderr sh -c "${import% -o out} nan.safetensors | tsinfo"
}

@test "metadata that says something wrong is refused" {
	"$python" - <<-'END'
	import json, st
	meta, t = st.read("one.safetensors")
	def put(name, change):
	    h = json.loads(meta["teddy"])
	    change(h)
	    st.write(name + ".safetensors", {"teddy": json.dumps(h)}, t)
	def nodes(**new):
	    return lambda h: h["net"]["nodes"][5].update(new)
	put("same", lambda h: None)
	put("cycle", nodes(**{"in": [7]}))
	put("itself", nodes(**{"in": [5]}))
	put("operation", nodes(op="guess"))
	put("lines", nodes(name="a\nb", op="\x1b[31m"))
	put("node", lambda h: h["net"]["nodes"].pop(5))
	put("graphless", lambda h: h.pop("net"))
	put("kind", lambda h: h.update(kind="images"))
	put("version", lambda h: h.update(tensorstream=2))
	put("classes", lambda h: h["classes"].pop())
	st.write("text.safetensors", {"teddy": "{"}, t)
	st.write("twice.safetensors", {"teddy": '{"kind": 1, "kind": 2}'}, t)
	st.write("list.safetensors", {"teddy": "[1]"}, t)
	END
	ckpt-import -o out same.safetensors
	cmp out one.ts
	rm out
	for bad in 'cycle:no earlier node' 'itself:no earlier node' "operation:unknown operation 'guess'" \
		"lines:a?b: unknown operation '?[31m'" 'node:no earlier node' \
		'graphless:no graph' 'kind:no header of a checkpoint' 'version:no header of a checkpoint' \
		'classes:9 classes, but its net has 10 outputs' 'text:not JSON' 'twice:duplicate' 'list:no header'; do
		echo "$bad"
		refused "${bad#*:}" ckpt-import -o out "${bad%%:*}.safetensors"
	done
}

@test "damaged files: one line and nothing left, or a network that is whole" {
	"$python" "$root/tests/tools/damage.py" one.safetensors bad 60
	[ "$(ls bad/cut-* | wc -l)" -eq 60 ]
	for f in bad/cut-*; do
		refused "$f: " ckpt-import -o out "$f"
	done
	for f in bad/flip-*; do
		run --separate-stderr ckpt-import -o out "$f"
		if [ "$status" -eq 0 ]; then
			tsinfo out >/dev/null
		else
			[ "$status" -eq 1 ]
			[ "$(printf '%s\n' "$stderr" | wc -l)" -eq 1 ]
			[ ! -e out ]
		fi
		rm -f out
	done
	"$python" "$root/tests/tools/damage.py" one.ts badts 10
	[ "$(ls badts | wc -l)" -ge 40 ]
	for f in badts/*; do
		refused 'ckpt-export: ' ckpt-export -o out "$f"
	done
}

@test "a checkpoint that has no place in the format is refused" {
	"$python" - <<-'END'
	import numpy as np, tstream
	h, frames = tstream.read("one.ts")
	def put(name, header, scale=1):
	    w = tstream.Writer(name, "checkpoint", {**h, **header})
	    for f in frames:
	        w.put({k: v * np.float32(scale) for k, v in f.items()})
	    w.finish()
	put("loss.ts", {"train": {"loss": float("nan")}})
	put("bytes.ts", {"note": b"\xff"})
	put("large.ts", {}, 1e6)
	END
	refused "JSON cannot hold its 'train'" ckpt-export -o out loss.ts
	refused "JSON cannot hold its 'note'" ckpt-export -o out bytes.ts
	ckpt-export --type bf16 large.ts >large.safetensors
	refused 'is too large for F16' ckpt-export --type f16 -o out large.ts
	refused 'of kind images' ckpt-export -o out train.ts
	refused 'No space left' sh -c 'ckpt-export one.ts >/dev/full'
	refused 'No space left' sh -c 'ckpt-import one.safetensors >/dev/full'
	refused 'not a regular file' sh -c 'cat one.safetensors | ckpt-import /dev/stdin >std'
}

@test "wrong command lines" {
	for line in ckpt-import 'ckpt-import a b' 'ckpt-import -s 3x4 -a convnet1-3 x' \
		'ckpt-import -s 1x4x4x4 -a convnet1-3 x' 'ckpt-import -s 3x4x4 x' 'ckpt-import -a convnet1-3 -s 1x4x4 x' \
		'ckpt-import --mean 0.5 x' 'ckpt-import --mean 0.5 --std 0 x' 'ckpt-import --classes a,a x' 'ckpt-export --type f8' \
		'ckpt-export a b' 'ckpt-export --nothing'; do
		echo "$line"
		# shellcheck disable=SC2086 # words
		run -2 --separate-stderr $line
		[ "$(printf '%s\n' "$stderr" | wc -l)" -eq 1 ]
	done
	for name in ckpt-import ckpt-export; do
		$name -h | grep -q "^usage: $name "
		$name -V | grep -q "^$name 0"
	done
}

@test "ckpt-export(1): its example" {
	tar cf pool.tar --transform 's,one.ts,0/1.ts,' -h one.ts
	page_commands ckpt-export.1 >run.sh
	[ "$(wc -l <run.sh)" -eq 1 ]
	bash -e -o pipefail run.sh
	"$python" -c '
import st
meta, t = st.read("half.safetensors")
assert all(x.dtype.str == "<f2" for x in t.values())'
	"$python" -c 'import safetensors.numpy' 2>/dev/null || return 0
	sed '/^\.Bd .*-compact/d' "$root/man/ckpt-export.1" | sed -n '/^\.Bd/,/^\.Ed/{ /^\./d; p; }' >run.py
	"$python" run.py | grep -q 'convnet2-8 14'
}
