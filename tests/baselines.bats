#!/usr/bin/env bats
# random, sre2l, dm and imbalance: what they leave, what they do not do twice, what they refuse.

bats_require_minimum_version 1.5.0
load tools/small.bash

data=(sample/train-images-idx3-ubyte.gz sample/t10k-images-idx3-ubyte.gz)
net=(--arch convnet2-8 --epochs 2 --batch 50)
pool=("${net[@]}" --first 1 --every 1)

# run_into FOLDER PIPELINE OPTION...: the smallest run that has every step
run_into()
{
	local into=$1 pipeline=$2

	shift 2
	"$root/pipelines/$pipeline" --per-class 15 --ipc 2 --hard-steps 4 --soft-steps 4 --soft-batch 10 --repeats 2 \
		--student convnet2-8-in --soft-student convnet2-8 --threads 1 --classes @sample/CLASSES "$@" "${data[@]}" "$into" \
		>"$into.out" 2>"$into.err" || { cat "$into.err"; return 1; }
}

# done_again FOLDER: the steps that its last run did do
done_again()
{
	sed -n 's/^..:..:..  //p' "$1.err" | grep -v ': there$' || true
}

# sets FOLDER: the first two columns of its table, and no figure that is none
sets()
{
	awk -F '\t' 'NR == 1 { if ($0 != "set\timages\thard\thard_sd\tsoft\tsoft_sd") exit 1; next }
		{ if ($3 !~ /^[0-9.]+$/ || $3 < 2 || $3 > 100 || $5 !~ (soft ? "^[0-9.]+$" : "^-$")) exit 1; print $1, $2 }' \
		soft="${2-1}" "$1/table.tsv" | paste -sd ,
}

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	run_into random random "${pool[@]}" --herding
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

@test "random: two sets, which it does not make twice" {
	[ "$(sets random)" = "random 20,herding 20" ]
	[ "$(tar tf random/herding.tar | grep -c 'png$')" -eq 20 ]
	run -1 cmp -s random/random.ts random/herding.ts
	# Herding is by the pool's last network.
	tar xOf random/02-pool.tar 0/2.ts >last.ts
	synth-init -i 2 --from herding -p last.ts -o herding.ts <random/01-train.ts
	"$python" - <<-'END'
	import numpy as np, tstream
	(a,), (b,) = (tstream.read(p)[1] for p in ("herding.ts", "random/herding.ts"))
	assert np.array_equal(a["images.f32"], b["images.f32"])
	END
	cp random/table.tsv table.tsv
	run_into random random "${pool[@]}" --herding
	[ -z "$(done_again random)" ]
	cmp table.tsv random/table.tsv
	rm random/07-soft-herding/1.json
	run_into random random "${pool[@]}" --herding
	[ "$(done_again random)" = "student 1 on soft labels, herding" ]
	cmp table.tsv random/table.tsv
}

@test "random: the row is that of teddy" {
	run_into teddy teddy "${pool[@]}" --iterations 2 --teachers 1 --whole-steps 0
	[ "$(grep ^random teddy/table.tsv)" = "$(grep ^random random/table.tsv)" ]
	cmp teddy/random.ts random/random.ts
	run_into given random --pool teddy/02-pool.tar
	[ "$(sets given)" = "random 20" ]
	[ "$(grep ^random teddy/table.tsv)" = "$(grep ^random given/table.tsv)" ]
	[ ! -e given/02-pool.tar ]
}

@test "sre2l: one teacher, the last of its run; CDA's crops on demand" {
	run_into sre2l sre2l "${net[@]}" --iterations 4
	[ "$(sets sre2l)" = "sre2l 20,random 20" ]
	[ "$(tar tf sre2l/02-teacher.tar | tr '\n' ' ')" = "0/2.ts MANIFEST " ]
	montage --cols 10 <sre2l/04-init.ts | cmp - sre2l/init.png
	cp sre2l/sre2l.ts plain.ts
	run_into sre2l sre2l "${net[@]}" --iterations 4 --cda
	[ "$(done_again sre2l | head -n 1)" = "synthesis: 4 iterations" ]
	[ -z "$(done_again sre2l | grep -E 'random|teacher|initial|images$')" ]
	run -1 cmp -s plain.ts sre2l/sre2l.ts
	"$python" - <<-'END'
	import tstream
	plain, cda = (tstream.read(p)[0]["history"] for p in ("plain.ts", "sre2l/sre2l.ts"))
	assert [e["program"] for e in plain] == ["load-images", "synth-init", "synth-step"], plain
	assert plain[1]["args"]["from"] == "noise" and "cda" not in str(plain[2]) and "cda" in str(cda[2]), cda
	END
}

@test "dm: untrained networks and hard labels; a pool's soft ones on demand" {
	run_into dm dm --arch convnet2-8-in --networks 4 --iterations 4
	[ "$(sets dm '')" = "dm 20,random 20" ]
	[ "$(tar tf dm/02-networks.tar | grep -c '\.ts$')" -eq 4 ]
	[ "$(tsinfo dm/dm.ts | head -n 1)" = "dm/dm.ts: images, 10 frames, 20 images" ]
	run -1 cmp -s dm/dm.ts dm/04-init.ts
	run_into dm dm --arch convnet2-8-in --networks 4 --iterations 4 --pool random/02-pool.tar
	[ "$(sets dm)" = "dm 20,random 20" ]
	[ -z "$(done_again dm | grep -v 'soft labels')" ]
	[ "$(cut -f 5 dm/table.tsv | tail -n 1)" = "$(cut -f 5 random/table.tsv | sed -n 2p)" ]
	run_into dm dm --arch convnet2-8-in --networks 4 --iterations 4
	[ "$(sets dm '')" = "dm 20,random 20" ]
}

@test "teddy --match features: untrained networks and a pool that predicts; a changed weight does synthesis again" {
	local how=("${pool[@]}" --match features --networks 3 --real-batch 5 --iterations 2 --whole-steps 0)

	run_into features teddy "${how[@]}"
	[ "$(sets features)" = "distilled 20,random 20" ]
	[ ! -e features/03-stats.ts ]
	tsinfo --history features/distilled.ts >history
	grep -q 'synth-step .*--match features --prior FILE:.* --prior_teachers 1 --ce 60 .*--lr 2 --opt sgd' history
	grep -q 'FILE:.* = .*train-ckpt --arch convnet2-8-in --epochs 0 --networks 3' history
	run_into features teddy "${how[@]}" --ce 5
	[ "$(done_again features | head -n 1)" = "synthesis: 2 iterations" ]
	grep -q 'synthesis: --ce was 60' features.err
	run_into features teddy "${how[@]}" --ce 5
	[ -z "$(done_again features)" ]
}

@test "imbalance: global, class-wise and random of each cut, whatever a killed run left" {
	mkdir -p cut/log
	echo "$HOSTNAME 4194305 0" >cut/log/lock # no process has this number
	flock cut/log/lock sleep 100 3>&- &
	left=$!
	until ! flock -n cut/log/lock true; do sleep 0.05; done
	run_into cut imbalance "${pool[@]}" --iterations 4 --teachers 1 --keep 0.6:1.0,0.5
	run ! kill -0 $left
	[ "$(sets cut)" = "global-0.6-1.0 20,class-0.6-1.0 20,random-0.6-1.0 20,global-0.5 20,class-0.5 20,random-0.5 20" ]
	tscut --keep 0.6:1.0 cut/01-train.ts | cmp - cut/01-train-0.6-1.0.ts
	[ "$(tsinfo cut/01-train-0.5.ts | sed -n '1s/.* \([0-9]*\) images$/\1/p')" -eq 80 ] # 8 of 15
	for f in global class; do
		run -1 cmp -s "cut/$f-0.5.ts" "cut/$f-0.6-1.0.ts"
	done
	run -1 cmp -s cut/global-0.5.ts cut/class-0.5.ts
	"$python" - <<-'END'
	import tstream
	for name in "global-0.5", "class-0.5", "random-0.5":
	    history = tstream.read(f"cut/{name}.ts")[0]["history"]
	    assert [e["program"] for e in history][:3] == ["load-images", "tscut", "synth-init"], history
	END
}

@test "a wrong command line is 2 and a line; a file that is not there is 1" {
	for p in random sre2l dm imbalance; do
		run -0 "$root/pipelines/$p" -h
		[[ $output == "usage: $p [options] TRAIN TEST OUTDIR"* ]]
		run -0 "$root/pipelines/$p" -V
		for wrong in "a b" "--nonsense a b c" "--ipc 0 a b c" "--seed x a b c" "--device gpu a b c" "--repeats"; do
			# shellcheck disable=SC2086 # words
			run -2 --separate-stderr "$root/pipelines/$p" $wrong
			[[ $stderr == "$p: "*"; -h tells the usage" && $stderr != *$'\n'* ]]
		done
		run -1 --separate-stderr "$root/pipelines/$p" none sample nothing
		[ "$stderr" = "$p: none: no such file or folder" ]
		[ ! -e nothing ]
	done
	run -2 --separate-stderr "$root/pipelines/imbalance" --keep 0.5,x sample sample nothing
	run -2 --separate-stderr "$root/pipelines/sre2l" --arch convnet3-in sample sample nothing
	run -2 --separate-stderr "$root/pipelines/sre2l" --every 2 sample sample nothing
	[ ! -e nothing ]
}
