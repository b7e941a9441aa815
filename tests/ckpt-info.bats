#!/usr/bin/env bats
# ckpt-info: what it lists of checkpoints, pools and architectures, and what it refuses.

bats_require_minimum_version 1.5.0
load tools/small.bash
load tools/page.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	tar xf pool.tar 0/4.ts
	mv 0/4.ts one.ts
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

# total KEY: the number behind it at a listing's end
total()
{
	sed -n "s/^$1  *\([0-9]*\).*/\1/p" list
}

@test "ResNet-18 at its native input: layers and totals as everybody knows them" {
	ckpt-info -a resnet18 -s 3x224x224 >list
	[ "$(total parameters)" -eq 11689512 ]
	[ "$(total buffers)" -eq 9600 ]
	[ "$(total MACs)" -eq 1814073344 ]
	grep -q '^size  *46.8 MB' list
	grep -Eq '^conv1 +conv 7x7/2 +64x112x112 +9408 +118013952$' list
	grep -Eq '^layer4.1.bn2 +bn +512x7x7 +1024$' list
	grep -Eq '^layer4.1.relu2 +relu +512x7x7$' list
	grep -Eq '^fc +linear +1000x1x1 +513000 +512000$' list
}

@test "groups, windows, shares; classes; small forms keep the parameters' shapes" {
	ckpt-info -a efficientnet_b0-small -s 3x32x32 -k 10 >list
	grep -Eq '^features.2.0.block.1.0 +conv 3x3/2 g96 +96x16x16 +864 +221184$' list
	grep -Eq '^features.2.1.stochastic_depth +droppath 0.025 ' list
	grep -Eq '^classifier.0 +dropout 0.2 ' list
	grep -Eq '^classifier.1 +linear +10x1x1 ' list
	[ "$(total parameters)" -eq $((5288548 - 990 * 1281)) ]
	ckpt-info -a vgg11_bn-small -s 3x32x32 >list
	grep -Eq '^classifier.0 +linear +4096x1x1 +2101248 ' list
}

@test "a checkpoint from a file and from standard input: the same; totals are the sums of layers" {
	ckpt-info one.ts >list
	ckpt-info <one.ts | cmp - list
	ckpt-info -o out one.ts
	cmp out list
	head -1 list | grep -Fqx 'convnet2-16, 1x28x28 -> 10 classes'
	awk '/^layer/{on = 1; next} /^parameters/{on = 0} on && $2 == "conv"{p += $5; m += $6} on && $2 == "bn"{p += $4}
		on && $2 == "linear"{p += $4; m += $5} END{print p, m}' list >sums
	[ "$(cat sums)" = "$(total parameters) $(total MACs)" ]
}

@test "a pool: a line a member; one member: its layers" {
	ckpt-info pool.tar >members
	[ "$(wc -l <members)" -eq 5 ]
	grep -Eq '^0/4.ts +convnet2-16 +1x28x28 +10 +[0-9]+ +[0-9]+ ' members
	ckpt-info -m 0/4.ts pool.tar | cmp - <(ckpt-info one.ts)
}

@test "--json: the same figures" {
	ckpt-info one.ts >list
	ckpt-info --json one.ts >one.json
	ckpt-info --json <pool.tar >pool.json
	"$python" - "$(total parameters)" "$(total MACs)" <<-'PY'
	import json, sys
	one = json.load(open("one.json"))
	params, macs = map(int, sys.argv[1:])
	assert (one["arch"], one["input"], one["classes"]) == ("convnet2-16", [1, 28, 28], 10)
	assert one["parameters"] == params == sum(x["parameters"] for x in one["layers"])
	assert one["macs"] == macs == sum(x["macs"] for x in one["layers"])
	assert one["bytes"] == 4 * (params + one["buffers"]) and one["buffers"] == 64
	names = [x["name"] for x in one["layers"]]
	assert all(i in names[:n] for n, x in enumerate(one["layers"]) for i in x["in"])
	conv = one["layers"][1]
	assert (conv["op"], conv["k"], conv["stride"], conv["pad"], conv["groups"]) == ("conv", 3, 1, 3, 1)
	pool = [json.loads(line) for line in open("pool.json")]
	assert [m["member"] for m in pool] == ["0/1.ts", "0/2.ts", "0/3.ts", "0/4.ts"]
	assert all(m["parameters"] == params and "layers" not in m for m in pool)
	PY
}

@test "every network that the usage names is there, and small but for convnets" {
	names=$(ckpt-info -h | sed -n '/^  -a/,/^  -s/p' | grep -Eo '(resnet|dense|mobile|shuffle|eff|vgg|alex)[a-z0-9_]*')
	[ "$(wc -w <<<"$names")" -eq 10 ]
	for name in $names; do
		for arch in "$name" "$name-small"; do
			ckpt-info -a "$arch" -s 3x64x64 -k 7 | grep -q "^$arch, 3x64x64 -> 7 classes"
		done
	done
	ckpt-info -a convnet4-64-in -s 1x32x48 -k 7 | grep -q '^features.13  *in '
}

@test "refused: images that are too small, members that are not there, other streams, damage" {
	fails 'node features.transition3.pool: its output would be 512x0x0' ckpt-info -a densenet121 -s 3x16x16
	fails "pool.tar: no member '0/9.ts'" ckpt-info -m 0/9.ts pool.tar
	fails 'train.ts' ckpt-info train.ts
	head -c 3000 one.ts >cut.ts
	fails 'cut.ts' ckpt-info cut.ts
	fails 'cut.ts' ckpt-info -o out.txt cut.ts
	[ ! -e out.txt ]
	fails 'none.ts: No such file' ckpt-info none.ts
	fails 'standard output' bash -c 'ckpt-info one.ts >/dev/full'
}

@test "wrong command lines: status 2" {
	for line in '-a resnet18' '-s 3x32x32' '-k 10 one.ts' '-a resnet18 -s 3x32' '-a resnet18 -s 3x32x32x1' \
		'-a resnet18 -s 0x32x32' '-a resnet18 -s 3x32x32 one.ts' '-a resnet18 -s 3x32x32 -k 0' 'one.ts one.ts' --nix; do
		# shellcheck disable=SC2086 # words
		run -2 ckpt-info $line
	done
}

@test "ckpt-info(1): its examples" {
	page_commands ckpt-info.1 >run.sh
	[ "$(wc -l <run.sh)" -eq 2 ]
	bash -e -o pipefail run.sh >said
	grep -q '^parameters  25557032 trained' said
	grep -q '^convnet2-16, ' said
}
