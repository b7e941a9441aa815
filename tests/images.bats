#!/usr/bin/env bats
# load-images, save-images and montage on real images: the sample that ships, and fixtures/images.

bats_require_minimum_version 1.5.0
load tools/refused.bash
load tools/page.bash

setup_file()
{
	root=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	export root PATH="$root/build/bin:$PATH" LC_ALL=C
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	load-images -n 6 --classes @sample/CLASSES sample/train-images-idx3-ubyte.gz >some.ts
	save-images <some.ts >some.tar
	save-images --format folder -o some <some.ts
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
	rm -rf work
	mkdir work
}

# runs the Python on standard input, which has read(PATH) -> header, pixels or files, labels
streams()
{
	"${PYTHON:-/usr/bin/python3}" - "$@" <<END
import sys
import msgpack, msgpack_numpy
import numpy as np

def read(path):
    o = list(msgpack.Unpacker(open(path, "rb"), object_hook=msgpack_numpy.decode, max_buffer_size=1 << 30))
    x = [f.get("images.u8", f.get("images.encoded")) for f in o[1:-1]]
    x = sum(x, []) if isinstance(x[0], list) else np.concatenate(x)
    return o[0], x, np.concatenate([f["labels"] for f in o[1:-1]])

$(cat)
END
}

@test "IDX: header, pixels and labels are those of the file" {
	load-images --classes @sample/CLASSES sample/t10k-images-idx3-ubyte.gz >work/t.ts
	streams <<-'END'
	import gzip
	h, x, y = read("work/t.ts")
	d = np.frombuffer(gzip.open("sample/t10k-images-idx3-ubyte.gz").read(), np.uint8)[16:].reshape(-1, 1, 28, 28)
	l = np.frombuffer(gzip.open("sample/t10k-labels-idx1-ubyte.gz").read(), np.uint8)[8:]
	assert (x == d).all() and (y == l).all() and len(x) == 2000
	assert h["classes"] == open("sample/CLASSES").read().split("\n")[:10]
	assert h["kind"] == "images" and h["shape"] == [1, 28, 28]
	assert abs(h["mean"][0] - (d / 255).mean()) < 1e-6 and abs(h["std"][0] - (d / 255).std()) < 1e-6
	assert h["history"][0]["args"]["images"] == 2000 and np.bincount(y).tolist() == [200] * 10
	END
}

@test "-n picks so many of each class, in order; another seed picks others" {
	load-images -n 6 --seed 1 --classes @sample/CLASSES sample/train-images-idx3-ubyte.gz >work/b.ts
	load-images -n 6 --classes @sample/CLASSES sample/train-images-idx3-ubyte.gz >work/c.ts
	cmp some.ts work/c.ts
	streams <<-'END'
	a, x, y = read("some.ts")
	b, z, w = read("work/b.ts")
	assert np.bincount(y).tolist() == np.bincount(w).tolist() == [6] * 10
	assert a["history"][0]["args"]["data"] != b["history"][0]["args"]["data"]
	END
	refused "has only 600" load-images -n 601 -o out sample/train-images-idx3-ubyte.gz
}

@test "archive and folder give pixels, labels, names and normalisation back" {
	load-images some.tar >work/tar.ts
	load-images some >work/dir.ts
	streams <<-'END'
	a, x, y = read("some.ts")
	b, u, v = read("work/tar.ts")
	c, p, q = read("work/dir.ts")
	assert (x == u).all() and (y == v).all()
	o = np.argsort(y, kind="stable")
	assert (x[o] == p).all() and (y[o] == q).all()
	for k in "classes", "mean", "std", "shape":
	    assert a[k] == b[k] == c[k], k
	END
	[ -d some/T-shirt_top ]
	tar tf some.tar | head -3 | tr '\n' ' ' | grep -q '^classes.txt dataset.json 00000000.png $'
	tar xOf some.tar 00000000.json | python3 -c 'import json, sys; assert "class" in json.load(sys.stdin)'
}

@test "floats are denormalised, rounded and clamped" {
	save-images -o work/f.tar <"$root/tests/fixtures/images/floats.ts"
	[ "$(tar xOf work/f.tar 00000000.json)" = '{"class":"b","label":1,"unit":7,"index":2}' ]
	load-images -o work/g.ts work/f.tar
	streams "$root/tests/fixtures/images" <<-'END'
	h, x, y = read("work/g.ts")
	assert (x == np.load(sys.argv[1] + "/floats.npy")).all() and y.tolist() == [1, 0] and h["std"][2] == np.float32(0.1)
	END
}

@test "a tar in any order, packed or not, inside a folder or not, is the folder" {
	rm some/classes.txt some/dataset.json
	load-images some >work/dir.ts
	find some -name '*.png' | sort -r >work/list
	tar cf work/a.tar -T work/list
	tar cf work/b.tar -C some .
	gzip -k work/a.tar
	zstd -q --long=27 work/a.tar
	xz -k work/b.tar
	for f in a.tar b.tar a.tar.gz a.tar.zst b.tar.xz; do
		load-images "work/$f" | cmp - work/dir.ts
	done
	streams <<-'END'
	h = read("work/dir.ts")[0]
	assert h["classes"] == sorted(h["classes"]) and "T-shirt_top" in h["classes"]
	END
	save-images <some.ts >work/x.tar && tar xf work/x.tar -C some classes.txt dataset.json
}

@test "order and pixels are those of ImageFolder, as they are, smaller and larger" {
	ln -s "$root/tests/fixtures/images" work/fixture
	load-images -o work/whole.ts work/fixture/set
	load-images -s 13 -o work/smaller.ts work/fixture/set
	load-images -s 40 -o work/larger.ts work/fixture/set
	streams <<-'END'
	import json
	e = json.load(open("work/fixture/expected.json"))
	for name in "whole", "smaller", "larger":
	    h, x, y = read(f"work/{name}.ts")
	    assert h["classes"] == e["classes"] and y.tolist() == e["labels"]
	    d = np.abs(x.astype(int) - np.load(f"work/fixture/{name}.npy")).max((1, 2, 3))
	    assert d.max() <= 2, dict(zip(e["files"], d))
	END
}

@test "grey: a set of grey images has one channel, --gray makes it so" {
	mkdir -p work/g/x && cp "$root"/tests/fixtures/images/set/C/*.png work/g/x
	load-images -o work/g.ts work/g
	load-images --gray -o work/h.ts "$root/tests/fixtures/images/set"
	streams <<-'END'
	assert read("work/g.ts")[0]["shape"] == [1, 21, 30]
	h, x, y = read("work/h.ts")
	assert h["shape"] == [1, 21, 30] and len(h["mean"]) == 1 and len(x) == 10
	END
}

@test "--encoded passes the files on, and what reads them gets the same pixels" {
	set=$root/tests/fixtures/images/set
	load-images --encoded -s 13 -o work/e.ts "$set"
	load-images -s 13 -o work/p.ts "$set"
	save-images <work/e.ts >work/e.tar
	save-images <work/p.ts >work/p.tar
	montage <work/e.ts >work/e.png
	montage <work/p.ts | cmp - work/e.png
	load-images work/e.tar >work/e2.ts
	load-images work/p.tar | cmp - work/e2.ts
	streams "$set" <<-'END'
	files = read("work/e.ts")[1]
	assert files[4] == open(sys.argv[1] + "/b/10.jpg", "rb").read()
	a, b = read("work/e.ts")[0], read("work/p.ts")[0]
	assert a["mean"] == b["mean"] and a["history"][0]["args"]["data"] == b["history"][0]["args"]["data"]
	END
}

@test "the number of threads changes nothing" {
	for t in 1 3; do
		load-images --threads $t -s 13 "$root/tests/fixtures/images/set" >work/$t.ts
		save-images --threads $t <some.ts >work/$t.tar
	done
	cmp work/1.ts work/3.ts
	cmp work/1.tar work/3.tar
}

@test "--classes selects and orders folders, names numbers, takes / for _" {
	load-images --classes Bag,Coat some >work/two.ts
	load-images --classes @sample/CLASSES some >work/all.ts
	streams <<-'END'
	h, x, y = read("work/two.ts")
	assert h["classes"] == ["Bag", "Coat"] and y.tolist() == [0] * 6 + [1] * 6
	a, u, v = read("work/all.ts")
	assert a["classes"][0] == "T-shirt/top" and (u[v == 8] == x[y == 0]).all()
	END
	refused "no class 'Hat'" load-images --classes Bag,Hat -o out some
	refused "3 names for labels up to 9" load-images --classes a,b,c -o out sample/t10k-images-idx3-ubyte.gz
}

@test "CIFAR batches, with their names beside them" {
	python3 - <<-'END'
	import random
	r = random.Random(1)
	for file, head in ("data_batch_1.bin", 1), ("train.bin", 2):
	    with open("work/" + file, "wb") as f:
	        for i in range(4):
	            f.write(bytes([i + 5] * head) + r.randbytes(3072))
	END
	load-images -o work/a.ts work/data_batch_1.bin
	seq -f 'class %g' 0 99 >work/fine_label_names.txt
	load-images -o work/b.ts work/train.bin
	streams <<-'END'
	h, x, y = read("work/a.ts")
	d = np.frombuffer(open("work/data_batch_1.bin", "rb").read(), np.uint8).reshape(4, 3073)
	assert (x.reshape(4, -1) == d[:, 1:]).all() and y.tolist() == [5, 6, 7, 8] and len(h["classes"]) == 10
	h, x, y = read("work/b.ts")
	assert y.tolist() == [5, 6, 7, 8] and len(h["classes"]) == 100 and h["classes"][7] == "class 7"
	END
}

@test "bad images and folders are named" {
	load-images -o work/good.ts some
	cp -r some work/d
	mkdir work/d/Empty
	refused "Empty: class folder without an image" load-images -o out work/d
	rmdir work/d/Empty
	echo "not an image" >work/d/Bag/x.jpg
	refused "Bag/x.jpg: neither a JPEG nor a PNG" load-images -o out work/d
	: >work/d/Bag/x.jpg
	refused "Bag/x.jpg: empty file" load-images -o out work/d
	head -c 500 "$root/tests/fixtures/images/set/b/2.jpg" >work/d/Bag/x.jpg
	refused "Bag/x.jpg: JPEG: " load-images -o out work/d
	cp "$root/tests/fixtures/images/set/b/2.jpg" work/d/Bag/x.jpg
	refused "Bag/x.jpg: 30x21 pixels, but T-shirt_top/00000" load-images -o out work/d
	mkdir work/none
	refused "work/none: no class folders" load-images -o out work/none
	refused "work/gone: No such file" load-images -o out work/gone
	: >work/empty
	refused "work/empty: empty file" load-images -o out work/empty
	refused "neither a folder nor a tar" load-images -o out some.ts
	refused "does not go together" load-images -o out some some.tar
	mkdir -p work/latin/$'caf\xe9'
	cp "$root/tests/fixtures/images/set/b/2.jpg" work/latin/$'caf\xe9'
	refused "not UTF-8" load-images -o out work/latin
	refused "none/x.ts: No such file" load-images -o none/x.ts work/gone
}

@test "classes are told apart by their names: one that stands twice is refused" {
	mkdir work/twice
	tar xf some.tar -C work/twice
	sed -i 2d work/twice/classes.txt
	sed -i '1{p}' work/twice/classes.txt
	tar cf work/twice.tar -C work/twice .
	refused "class 'T-shirt/top' stands twice" load-images -o out work/twice.tar
}

@test "a tar cut anywhere, at a member's end too, is refused" {
	load-images some.tar >work/good.ts
	size=$(stat -c %s some.tar)
	data=$(tar tvRf some.tar | awk '/End of|NUL/ { print $2 + 0 }' | tr -d :)
	[ -n "$data" ] || data=$((size / 512 - 20))
	end=$((data * 512))
	for n in 0 100 512 1000 $((size / 2)) $end $((end + 512)) $((end + 1023)); do
		head -c "$n" some.tar >work/cut.tar
		refused work/cut.tar load-images -o out work/cut.tar
		gzip -c work/cut.tar >work/cut.tar.gz
		refused work/cut.tar.gz load-images -o out work/cut.tar.gz
	done
	head -c $((end + 1024)) some.tar >work/whole.tar
	load-images work/whole.tar | cmp - work/good.ts
	gzip -c some.tar | head -c -9 >work/cut.tar.gz
	refused work/cut.tar.gz load-images -o out work/cut.tar.gz
	cat some.tar some.tar >work/two.tar
	refused "follows the end" load-images -o out work/two.tar
}

@test "labels that do not fit are refused" {
	gzip -dc sample/t10k-images-idx3-ubyte.gz >work/t-images-idx3-ubyte
	gzip -dc sample/t10k-labels-idx1-ubyte.gz >work/t-labels-idx1-ubyte
	load-images -o work/good.ts work/t-images-idx3-ubyte
	gzip -dc sample/train-labels-idx1-ubyte.gz >work/t-labels-idx1-ubyte
	refused "6000 labels for 2000 images" load-images -o out work/t-images-idx3-ubyte
	head -c 100 work/t-labels-idx1-ubyte >work/x && mv work/x work/t-labels-idx1-ubyte
	refused "t-labels-idx1-ubyte: 100 bytes" load-images -o out work/t-images-idx3-ubyte
	rm work/t-labels-idx1-ubyte
	refused "t-labels-idx1-ubyte: No such file" load-images -o out work/t-images-idx3-ubyte
	head -c 100000 sample/t10k-images-idx3-ubyte.gz >work/t-images-idx3-ubyte.gz
	refused "t-images-idx3-ubyte.gz: " load-images -o out work/t-images-idx3-ubyte.gz
	mkdir work/w && tar xf some.tar -C work/w && rm work/w/00000003.cls
	tar cf work/w.tar -C work/w --transform 's,^\./,,' .
	refused "00000003.png: no label" load-images -o out work/w.tar
	echo 10 >work/w/00000003.cls
	tar cf work/w.tar -C work/w --transform 's,^\./,,' .
	refused "label 10, but only 10 class names" load-images -o out work/w.tar
	echo x >work/w/00000003.cls
	tar cf work/w.tar -C work/w --transform 's,^\./,,' .
	refused "00000003.cls: no label" load-images -o out work/w.tar
}

@test "a cut stream leaves neither archive nor folder nor picture" {
	for n in 0 10 2000 $(($(stat -c %s some.ts) - 1)); do
		head -c "$n" some.ts >work/cut.ts
		refused "<stdin>" save-images -o out <work/cut.ts
		refused "<stdin>" save-images --format folder -o out <work/cut.ts
		refused "<stdin>" montage -o out <work/cut.ts
		[ -z "$(find . -maxdepth 1 -name 'out*')" ]
		save-images <work/cut.ts >work/cut.tar 2>/dev/null && return 1
		refused "" load-images -o out work/cut.tar
	done
	refused "is there already" save-images --format folder -o work <some.ts
}

@test "a signal leaves no half a folder" {
	{ head -c 6000 some.ts; exec sleep 6; } 3>&- | save-images --format folder -o work/out 2>/dev/null 3>&- &
	for _ in $(seq 100); do
		[ -n "$(find work -name 'out.*')" ] && break
		sleep 0.05
	done
	[ -n "$(find work -name 'out.*')" ]
	kill $!
	for _ in $(seq 100); do
		[ -z "$(find work -name 'out*')" ] && break
		sleep 0.05
	done
	[ -z "$(find work -name 'out*')" ]
}

@test "a full disk and a closed pipe are errors" {
	for command in "save-images" "montage" "load-images some"; do
		run --separate-stderr bash -c "$command <some.ts >/dev/full"
		[ "$status" -eq 1 ]
		[ "$(printf '%s\n' "$stderr" | wc -l)" -eq 1 ]
	done
	run --separate-stderr bash -c "set -o pipefail; load-images sample/train-images-idx3-ubyte.gz | head -c 10 >/dev/null"
	[ "$status" -eq 1 ]
}

@test "montage: a grid of the right size with the images' pixels in it" {
	montage --cols 3 --scale 2 -o work/m.png <some.ts
	montage --cols 3 --scale 2 <some.ts | cmp - work/m.png
	mkdir -p work/set/m && mv work/m.png work/set/m
	load-images -o work/m.ts work/set
	streams <<-'END'
	m = read("work/m.ts")[1][0]
	h, x, y = read("some.ts")
	assert m.shape[1] == 2 * 16 + 10 * 60 - 4, m.shape
	for label in 0, 9:
	    row = [i for i in range(len(y)) if y[i] == label][:3]
	    big = x[row[1], 0].repeat(2, 0).repeat(2, 1)
	    top, left = 16 + 60 * label, m.shape[2] - 16 - 2 * 56 - 4
	    assert all((m[k, top:top + 56, left:left + 56] == big).all() for k in range(3))
	assert m[0, 0, 0] > 200 and (m[0, 16:616, 16:100] < 100).any()
	END
}

@test "a wrong command line exits 2, -h and -V exit 0" {
	for p in load-images save-images montage; do
		run -2 "$p" --no-such-option </dev/null
		run -0 "$p" -h
		[[ $output == usage:* ]]
		run -0 "$p" -V
	done
	run -2 load-images
	run -2 load-images -n 0 some
	run -2 load-images --mean 0.5 some
	run -2 load-images --mean 0.5,0.5 --std 1,1 some
	run -2 save-images --format zip <some.ts
	run -2 save-images --format folder <some.ts
	run -2 montage --cols x <some.ts
}

@test "the examples in the man pages run" {
	cd work
	cp -r ../some train
	mkdir pipelines
	ln -s "$root/pipelines/sample" pipelines
	tar cf train.tar -C train .
	cp ../some.ts distilled.ts
	for page in load-images save-images montage; do
		page_commands $page.1 >examples
		[ -s examples ]
		while read -r line; do
			echo "$line"
			bash -o pipefail -c "$line" </dev/null >/dev/null
		done <examples
	done
	[ -s two.png ]
	[ -s all.png ]
	[ -d distilled ]
}

@test "what is hidden in a tar is hidden, as in a folder" {
	mkdir -p work/hid/a/.ipynb_checkpoints work/hid/b work/hid/.trash
	image=$(find some -name "*.png" | sort | head -n 1)
	cp "$image" work/hid/a/0.png
	cp "$image" work/hid/b/1.png
	for at in a/.ipynb_checkpoints/0.png .trash/0.png a/.0.png; do
		cp "$image" "work/hid/$at"
	done
	load-images -o work/hid.ts work/hid
	tar cf work/a.tar -C work hid
	tar cf work/b.tar -C work/hid .
	tar cf work/c.tar -C work/hid a b
	tar cf work/d.tar -C work/hid a/. b
	tar cf work/e.tar -C work/hid a/. b/.
	for f in work/[a-e].tar; do
		load-images "$f" | cmp - work/hid.ts
	done
	streams <<-'END'
	h, x, y = read("work/hid.ts")
	assert h["classes"] == ["a", "b"] and y.tolist() == [0, 1]
	END
}

@test "lists of names and numbers count at the top of a tar alone, the last of a name" {
	mkdir -p work/nest/a work/nest/b
	image=$(find some -name "*.png" | sort | head -n 1)
	cp "$image" work/nest/a/0.png
	cp "$image" work/nest/b/1.png
	echo '{"mean": [0.1], "std": [0.9]}' | tee work/nest/a/dataset.json >work/nest/b/dataset.json
	printf 'b\na\n' >work/nest/b/classes.txt
	for top in without with; do
		if [ $top = with ]; then
			printf 'second\nfirst\n' >work/nest/classes.txt
			echo '{"mean": [0.25], "std": [0.5]}' >work/nest/dataset.json
			mv work/nest/a work/nest/second
			mv work/nest/b work/nest/first
		fi
		load-images -o work/nest.ts work/nest
		tar cf work/a.tar -C work nest
		tar cf work/b.tar -C work/nest .
		for f in work/[ab].tar; do
			load-images "$f" | cmp - work/nest.ts
		done
	done
	streams <<-'END'
	h = read("work/nest.ts")[0]
	assert h["classes"] == ["second", "first"] and h["mean"] == [0.25] and h["std"] == [0.5]
	END
	echo '{"mean": [0.75], "std": [0.5]}' >work/nest/dataset.json
	tar rf work/b.tar -C work/nest ./dataset.json
	load-images -o work/again.ts work/b.tar
	# a WebDataset, whose images may be in a folder as well
	mkdir work/wds && tar xf some.tar -C work/wds
	tar cf work/c.tar --sort=name -C work wds
	load-images work/c.tar | cmp - <(load-images some.tar)
	streams <<-'END'
	assert read("work/again.ts")[0]["mean"] == [0.75]
	END
}

@test "a JPEG with bytes of no meaning around its pixels is one without; between them it is refused" {
	mkdir -p work/jpeg/{whole,odd,bad}/a
	"${PYTHON:-/usr/bin/python3}" - <<-'END'
	import io, numpy as np
	from PIL import Image
	x = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
	b = io.BytesIO()
	Image.fromarray(x).save(b, "JPEG", quality=90)
	b = b.getvalue()
	sos = b.index(b"\xff\xda")
	put = lambda name, b: open(f"work/jpeg/{name}.jpg", "wb").write(b)
	junk = bytes(range(1, 121))
	for i in range(4):
	    put(f"whole/a/{i}", b)
	put("odd/a/0", b[:-2] + junk + b[-2:])
	put("odd/a/1", b[:sos] + junk[:3] + b[sos:])
	n = int.from_bytes(b[sos + 2:sos + 4], "big")
	assert b[sos + n] == 63  # the last coefficient of the scan
	put("odd/a/2", b[:sos + n] + b"\0" + b[sos + n + 1:])
	put("odd/a/3", b + junk)
	put("bad/a/0", b[:-400] + b[-2:])
	END
	load-images -o work/whole.ts work/jpeg/whole
	load-images -o work/odd.ts work/jpeg/odd
	streams <<-'END'
	a, b = read("work/whole.ts"), read("work/odd.ts")
	assert (a[1] == b[1]).all() and len(b[1]) == 4
	END
	refused "0.jpg: JPEG: " load-images -o out work/jpeg/bad
}

@test "what is larger than half of the memory goes through a file, to the same bytes" {
	local images=sample/train-images-idx3-ubyte.gz why="/nowhere: no file for what is larger than memory: No such file"

	student() { evaluate -a convnet1-8 -t work/few.ts --steps 3 --threads 1 -o work/result <work/big.ts && cut -f 1-5 work/result; }
	set -- -s 40 --threads 1 --classes @sample/CLASSES "$images" "$images" "$images" "$images"
	load-images -n 6 "$@" >work/few.ts
	load-images "$@" >work/big.ts
	train-ckpt -a convnet1-8 -e 0 <work/big.ts >work/big.tar
	student >work/big.txt
	export TMPDIR=$BATS_TEST_TMPDIR
	ulimit -d 64000 # of which half is less than the 38 MB of these images
	load-images "$@" | cmp - work/big.ts
	train-ckpt -a convnet1-8 -e 0 --threads 1 <work/big.ts | cmp - work/big.tar
	student >work/again.txt
	cmp work/again.txt work/big.txt
	rm work/result
	TMPDIR=/nowhere
	refused "$why" load-images -o out "$@"
	refused "<stdin>: frame 20: $why" train-ckpt -a convnet1-8 -e 0 --threads 1 -o out <work/big.ts
	refused "<stdin>: frame 20: $why" evaluate -a convnet1-8 -t work/few.ts --threads 1 -o out <work/big.ts
}
