#!/usr/bin/env bats
# prune on the sample that ships: what comes out of which options, the same bytes however it is split, what it refuses.
# Groups, widths and scores are t_depgraph's and t_prune's business.

bats_require_minimum_version 1.5.0
load tools/small.bash
load tools/page.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	load-images -n 8 --classes @sample/CLASSES -o train.ts sample/train-images-idx3-ubyte.gz
	load-images -n 1 --classes @sample/CLASSES -o few.ts sample/train-images-idx3-ubyte.gz
	train-ckpt -a convnet3-16 -e 2 -b 20 -o pool.tar <train.ts
	tar xOf pool.tar 0/2.ts >base.ts
	train-ckpt -a resnet18-small -e 1 -b 10 <few.ts | tar xO 0/1.ts >resnet.ts
	prune -n 9 <base.ts >nine.tar
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
	rm -rf out work
	mkdir work
}

# runs the Python on standard input, which has members(pool): name -> header and parameters; and widths(header)
check()
{
	"$python" - "$@" <<-END
	import io, tarfile
	import msgpack, msgpack_numpy, numpy as np
	def members(path):
	    tar, all = tarfile.open(path), {}
	    for m in tar:
	        if m.name != "MANIFEST":
	            f = tar.extractfile(m)
	            o = list(msgpack.Unpacker(f, object_hook=msgpack_numpy.decode, max_buffer_size=1 << 30))
	            all[m.name] = o[0], {k: v for f in o[1:-1] for k, v in f.items() if isinstance(v, np.ndarray)}
	    return all
	def widths(h):
	    return [n["out"] for n in h["net"]["nodes"] if n["op"] in ("conv", "linear")]
	$(cat)
	END
}

@test "nine of ResNet-18, each without 19 % of its channels, in under five seconds" {
	TIMEFORMAT="%U %S"
	{ time prune -n 9 --seed 1 -v -o work/pool.tar <resnet.ts 2>work/said; } 2>work/took
	read -r user system <work/took
	awk -v took="$user" -v more="$system" 'BEGIN { exit !(took + more < 5) }'
	[ "$(tar tf work/pool.tar | tr '\n' ' ')" = "$(printf '1/%d.ts ' {0..8})MANIFEST " ]
	check <<-'END'
	pool = members("work/pool.tar")
	assert len(pool) == 9
	want = [51] * 5 + [w for c in (103, 207, 414) for w in [c] * 5] + [10]
	for h, p in pool.values():
	    assert widths(h) == want, widths(h)
	    assert p["layer4.1.conv2.weight"].shape == (414, 414, 3, 3) and p["fc.weight"].shape == (10, 414)
	assert len({p["conv1.weight"].tobytes() for h, p in pool.values()}) == 9
	END
	# what -v says: sizes of each member, widths once
	[ "$(grep -c '^prune: 1/[0-8].ts: ratio 0.19, parameters 1117.* -> 7.*, multiply-adds 45.* -> 2' work/said)" -eq 9 ]
	[ "$(grep -c '^  layer4.0.conv2  *512 ->   414  and 2 more$' work/said)" -eq 1 ]
	[ "$(grep -c '^  fc  *10 ->    10  fixed$' work/said)" -eq 1 ]
}

@test "the header says what was done; all else in it stays" {
	check <<-'END'
	(base, _), = members("pool.tar").values() if len(members("pool.tar")) == 1 else [members("pool.tar")["0/2.ts"]]
	for k, (name, (h, p)) in enumerate(members("nine.tar").items()):
	    assert name == f"0/{k}.ts" and h["net"]["arch"] == "convnet3-16-pruned" and "train" not in h
	    assert all(h[key] == base[key] for key in ("classes", "mean", "std", "shape"))
	    assert h["history"][:-1] == base["history"] and h["history"][-1]["program"] == "prune"
	    args = {"ratio": 0.19, "importance": "random", "global": False, "seed": 0}
	    assert h["history"][-1]["args"] == args, h["history"][-1]
	    said = h["prune"]
	    trained = sum(v.size for key, v in p.items() if "running" not in key)
	    assert said["parameters"] == trained < said["parameters_before"] and said["macs"] < said["macs_before"]
	    assert (said["seed"], said["member"], said["ratio"]) == (0, k, 0.19)
	END
}

@test "pruned twice, the history says it twice" {
	prune -n 1 -r 0.3 <base.ts >work/once.tar
	prune -n 1 -r 0.3 -i work/once.tar >work/twice.tar
	[ "$(tsinfo --history --json work/twice.tar | grep -o '"prune"' | wc -l)" -eq 2 ]
	[ "$(tsinfo --history --json work/twice.tar)" = "$(prune -n 1 -r 0.3 -i work/once.tar --header | tsinfo --history --json)" ]
}

@test "the same seed gives the same bytes, member by member, from a file or a pool of one" {
	prune -i base.ts | cmp - nine.tar
	for k in 0 4 8; do
		prune --member $k -i base.ts | tar xO "0/$k.ts" | cmp - <(tar xOf nine.tar "0/$k.ts")
	done
	prune -n 9 --member 3 <base.ts >work/3.tar
	prune -n 9 --member 4 <base.ts >work/4.tar
	cat work/3.tar work/4.tar >work/both.tar
	[ "$(tsinfo work/both.tar | grep -c convnet3-16-pruned)" -eq 2 ]
	# more members leave the first as they are, under names that sort
	prune -n 11 <base.ts | tar xO 0/04.ts | cmp - <(tar xOf nine.tar 0/4.ts)
	tar cf work/one.tar --transform 's,base,0/2,' base.ts
	hash='import sys, xxhash; print(xxhash.xxh3_128_hexdigest(sys.stdin.buffer.read()))'
	echo "$("$python" -c "$hash" <base.ts)  0/2.ts" >work/MANIFEST
	tar rf work/one.tar -C work MANIFEST
	prune <work/one.tar | cmp - nine.tar
	prune --seed 1 <base.ts | tar xO 1/0.ts >work/other.ts
	run ! cmp -s work/other.ts <(tar xOf nine.tar 0/0.ts)
}

@test "ratios, targets, rounding and caps" {
	prune -n 2 -r 0.5 <base.ts >work/half.tar
	prune -n 2 --macs 0.66x <base.ts >work/macs.tar
	prune -n 2 --params 3K --global <base.ts >work/params.tar
	prune -n 2 -r 0.3 --round-to 4 <base.ts >work/round.tar
	prune -n 2 -r 0.7 --global --max-ratio 0.5 <base.ts >work/cap.tar
	prune -n 2 -r 0.7 --global <base.ts >work/nocap.tar
	prune -n 2 -r 0.5 --max-ratio 1.0 <base.ts | cmp - work/half.tar
	check <<-'END'
	def all(name, what):
	    return [what(h) for h, _ in members(f"work/{name}.tar").values()]
	assert all("half", widths) == [[8, 8, 8, 10]] * 2
	assert all("round", widths) == [[8, 8, 8, 10]] * 2
	for share in all("macs", lambda h: h["prune"]["macs"] / h["prune"]["macs_before"]):
	    assert 0.55 < share <= 0.66, share
	# the largest that is not above: one step of the ratio more would be too large
	for left in all("params", lambda h: h["prune"]["parameters"]):
	    assert 2800 < left <= 3000, left
	assert all("params", lambda h: h["history"][-1]["args"]["params"]) == ["3K"] * 2
	assert all("params", lambda h: h["prune"]["ratio"])[0] > 0
	assert min(min(w[:3]) for w in all("cap", widths)) == 8
	assert min(min(w[:3]) for w in all("nocap", widths)) < 8
	END
}

@test "the least channels go first" {
	for how in l1 l2 bn; do
		prune -n 1 -r 0.25 --importance $how <base.ts >work/$how.tar
	done
	tar xf pool.tar -C work 0/2.ts
	check <<-'END'
	base = members("pool.tar")["0/2.ts"][1]
	w, gamma, after = (base[f"features.{k}.weight"] for k in (0, 1, 4))
	def part(power):
	    of = lambda x: np.abs(x).astype(float) ** power
	    return of(w).sum((1, 2, 3)) + of(gamma) + of(after).sum((0, 2, 3))
	for how, score in ("l1", part(1)), ("l2", part(2)), ("bn", np.abs(gamma)):
	    (_, p), = members(f"work/{how}.tar").values()
	    stays = np.sort(np.argsort(score)[4:])
	    assert (p["features.0.weight"] == w[stays]).all() and (p["features.4.weight"].shape[1]) == 12, how
	END
}

@test "a pruned network is an ordinary one" {
	train-ckpt -i nine.tar -e 1 --lr 0.02 -b 20 -o work/tuned.tar <train.ts
	[ "$(tar tf work/tuned.tar | wc -l)" -eq 10 ]
	bnstats -p nine.tar -o work/stats.ts
	cutmix -e 1 -b 20 <train.ts | softlabel -p nine.tar >work/labelled.ts
	prune -n 1 -o work/again.tar < <(tar xOf nine.tar 0/0.ts)
	check <<-'END'
	(h, _), = members("work/again.tar").values()
	assert widths(h) == [9, 9, 9, 10] and h["net"]["arch"] == "convnet3-16-pruned", widths(h)
	END
}

@test "the page's examples" {
	mkdir work/page
	cd work/page
	cp ../../base.ts ../../train.ts .
	page_commands prune.1 >run.sh
	[ "$(wc -l <run.sh)" -eq 5 ]
	bash -e -o pipefail run.sh
	[ "$(tar tf small.tar)" = $'0/0.ts\nMANIFEST' ]
	[ "$(tsinfo pruned.tar | grep -c pruned)" -ge 9 ]
}

@test "what it refuses: one line, status 1, nothing written" {
	fails "at most 10 parameters; the nearest has [1-9]" prune -o out --params 10 <base.ts
	fails "at most .* multiply-adds; the nearest has [1-9]" prune -o out --macs 0.0001x <base.ts
	fails "nothing is to go" prune -o out --params 1G <base.ts
	fails "more than one network" prune -o out <pool.tar
	head -c 5000 base.ts >work/short.ts
	fails "truncated" prune -o out <work/short.ts
	head -c 30000 nine.tar >work/short.tar
	fails "member" prune -o out <work/short.tar
	fails "kind" prune -o out <train.ts
	fails "archive" prune -o out <"$root/man/prune.1"
	fails "empty" prune -o out </dev/null
	fails "such file" prune -o out -i work/none.ts
	train-ckpt -a convnet1-8-in -e 1 -b 20 <train.ts | tar xO 0/1.ts >work/no-norm.ts
	fails "batch norm" prune -o out --importance bn <work/no-norm.ts
	[ ! -e out ]
}

@test "wrong command lines: status 2" {
	for r in 0 1 -0.5 1.5; do
		misused "ratio" prune -o out -r $r <base.ts
	done
	misused "ratio" prune -o out --macs 1.5x <base.ts
	for how in "--importance taylor" "-n 0" "-r half" "--macs 3Q" "--round-to 0" "--member 9" "-r 0.2 --macs 0.5x" \
	    file; do
		read -ra words <<<"$how"
		run --separate-stderr prune "${words[@]}" -o out <base.ts
		[ "$status" -eq 2 ]
		[ "$(printf '%s\n' "$stderr" | wc -l)" -eq 1 ]
	done
	[ ! -e out ]
}
