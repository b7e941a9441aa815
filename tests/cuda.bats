#!/usr/bin/env bats
# The cuda backend behind the real filters, on the emulated device: what the cpu backend gives, and the same bytes always.
# shellcheck disable=SC2154 # root and python are tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash
export TEDDY_CUDA="$BATS_TEST_DIRNAME/../build/emu/teddy-cuda.so"

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	tscut -u 0 -o unit.ts init.ts
	step -N 3 -o cpu.ts <unit.ts
}

step()
{
	synth-step -p pool.tar -s stats.ts --aug rrc:0.5,flip --float "$@"
}
export -f step

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
}

# apart LIMIT A B: the largest difference of any two float arrays of two streams, by their largest value, is below LIMIT and
# above LEAST where that is given
apart()
{
	"$python" - "$@" <<-'END'
	import sys
	import numpy
	import tstream
	worst = 0
	for a, b in zip(tstream.read(sys.argv[2])[1], tstream.read(sys.argv[3])[1], strict=True):
	    for key in a:
	        if isinstance(a[key], numpy.ndarray) and a[key].dtype.kind == "f":
	            x, y = (v[key].astype("f8") for v in (a, b))
	            worst = max(worst, abs(x - y).max() / max(abs(x).max(), 1e-30))
	print(worst)
	sys.exit(not float(sys.argv[4] if len(sys.argv) > 4 else 0) <= worst < float(sys.argv[1]))
	END
}

# Every line of -v that describes a plan must be of the cuda backend, every convolution and linear cuDNN's or cuBLASLt's.
on_the_device()
{
	"$python" - "$1" <<-'END'
	import json, sys
	plans = [json.loads(l)["plan"] for l in open(sys.argv[1]) if l.startswith('{"plan"')]
	assert plans
	for p in plans:
	    assert p["backend"] == "cuda", p["backend"]
	    for stage in p["stages"]:
	        ran = [stage[part] for part in ("forward", "epilogue", "undo", "dgrad", "wgrad") if stage[part]]
	        assert all(what.split(":")[0] in ("cudnn", "cublaslt", "cuda") for what in ran), stage
	        weighs = "cudnn" if "conv" in stage["ops"] else "cublaslt" if "linear" in stage["ops"] else "cuda"
	        assert stage["ops"] == ["input"] or stage["forward"].startswith(weighs + ":") or not stage["forward"], stage
	END
}

# ran FILE LEAST NAME: at least so often, by EMU_RAN
ran()
{
	awk -v least="$2" -v name="$3" '
	{ sub(/^\(/, "", $2); sub(/[<)].*/, "", $2) } $2 == name { n += $1 }
	END { print name ": " n + 0; exit n < least }' "$1"
}

@test "synthesis: the cpu's pixels" {
	step -N 3 --device cuda -v -o cuda.ts <unit.ts 2>said
	on_the_device said
	apart 1e-4 cpu.ts cuda.ts
}

@test "synthesis: split, resumed, in another order of threads, late: the same bytes" {
	EMU_RAN="what" step -N 4 --device cuda -o whole.ts <init.ts
	# Three units, of which all but the first iteration of each set of teachers are one launch.
	ran what 8 graph
	ran what 12 view_backward
	step -N 4 -n 3 --device cuda <init.ts | step -N 4 -n 1 --device cuda -o resumed.ts
	cmp whole.ts resumed.ts
	for u in 2 0 1; do
		order=shuffle && [ "$u" -gt 0 ] || order=reverse
		tscut -u "$u" init.ts | EMU_ORDER=$order EMU_STREAMS=late step -N 4 --device cuda -o "part-$u.ts"
	done
	tscat -o parts.ts part-*.ts
	cmp whole.ts parts.ts
}

@test "synthesis: a unit goes to the device once, and comes back after every call" {
	for n in 2 6; do
		EMU_RAN=$n.ran step -N 8 -n $n --state $n.state --save-every 1 --device cuda -o $n.ts <unit.ts
		step -N 8 -n $n --device cuda <unit.ts | cmp - $n.ts
	done
	# Where to begin, whether all is finite, draws and rates go there; pixels, two moments, losses, and those two come back.
	copies=$(($(awk '$2 == "copy" { n += $1 } END { print n }' 6.ran) - $(awk '$2 == "copy" { n += $1 } END { print n }' 2.ran)))
	[ "$copies" -eq $((4 * (5 + 6))) ] || { echo "$copies copies"; false; }
}

@test "synthesis: every draw of teachers, DSA, class-wise statistics, each ensemble" {
	for options in "--draw iteration --match class" "--teachers 2 --ensemble probs --match mixed:0.5 --bn-mean" \
	    "--ensemble each --aug dsa --alpha 0.5"; do
		# shellcheck disable=SC2086 # words
		step -N 3 $options -o one.ts <unit.ts
		# shellcheck disable=SC2086
		step -N 3 $options --device cuda -o other.ts <unit.ts
		apart 2e-4 one.ts other.ts
	done
}

@test "synthesis: SGD, a draw for each class, other weights; split, the same bytes" {
	for options in "--ce 0.5 --aug-each class" "--aug dsa --aug-each class --opt sgd --lr 1 --momentum 0.9 --wd 0.01"; do
		# shellcheck disable=SC2086 # words
		step -N 3 $options -o one.ts <unit.ts
		# shellcheck disable=SC2086
		EMU_RAN="what" step -N 3 $options --device cuda -o other.ts <unit.ts
		ran what 1 graph
		apart 2e-4 one.ts other.ts
		# shellcheck disable=SC2086
		step -N 3 $options -n 2 --device cuda <unit.ts | step -N 3 $options --device cuda | cmp - other.ts
	done
}

@test "no room for a graph: iterations and steps go call by call, to the same bytes" {
	step -N 6 --device cuda -o graphs.ts <unit.ts
	for room in 0 1; do
		rm -f what
		EMU_GRAPHS=$room EMU_RAN="what" step -N 6 --device cuda <unit.ts | cmp - graphs.ts
		[ $room -eq 1 ] || run -1 grep -w graph what
	done
	train-ckpt -a convnet2-8 -e 2 -b 30 --device cuda -o graphs.tar <train.ts
	EMU_GRAPHS=0 train-ckpt -a convnet2-8 -e 2 -b 30 --device cuda <train.ts | cmp - graphs.tar
	rm -f what
	EMU_UPLOADS=1 EMU_RAN="what" step -N 6 --device cuda <unit.ts 2>said | cmp - graphs.ts
	ran what 1 graph
	TEDDY_GRAPHS=0 EMU_RAN="none" step -N 6 --device cuda <unit.ts 2>>said | cmp - graphs.ts
	run -1 grep -w graph none
	[ ! -s said ]
}

@test "what cannot be part of a graph goes call by call, to the same bytes, and is said in one line" {
	cutmix -e 4 -b 20 -o recipes.ts <unit.ts
	students() { evaluate -a convnet2-8 -t val.ts -r 2 --json --device cuda "$@" <recipes.ts | grep -v seconds; }
	train() { train-ckpt -a convnet2-8 -e 2 -b 30 --device cuda "$@" <train.ts; }
	step -N 6 --device cuda -o graphs.ts <unit.ts
	students >graphs
	train >graphs.tar
	export EMU_RAN=what EMU_UNCAPTURED=conv_dgrad
	step -N 6 --device cuda <unit.ts 2>said-step | cmp - graphs.ts
	EMU_UNCAPTURED=conv_wgrad train 2>said-train | cmp - graphs.tar
	EMU_UNCAPTURED=gemm_wgrad students 2>said-students | cmp - graphs
	run -1 grep -w graph what
	for said in said-*; do
		[ "$(wc -l <"$said")" -eq 1 ]
		grep -q ': device cuda (.*): no graphs, single calls instead: ' "$said"
	done
	# One of the lanes alone, with the others forked.
	EMU_UNCAPTURED=conv_dgrad EMU_STREAMS=late EMU_ORDER=shuffle step -N 6 --device cuda <unit.ts 2>said-step | cmp - graphs.ts
}

@test "synthesis: tf32 and bf16 are near, and not the same" {
	step -N 3 --device cuda --precision tf32 -o tf32.ts <unit.ts
	apart 0.2 cpu.ts tf32.ts 1e-7
	step -N 3 --device cuda --precision bf16 -v -o bf16.ts <unit.ts 2>said
	on_the_device said
	apart 0.4 cpu.ts bf16.ts 1e-6
	tsinfo --json bf16.ts | grep -q '"precision": *"bf16"'
}

@test "synthesis: a loss that is not finite leaves the last good state" {
	local seed status

	mixed_pool
	for seed in {1..12}; do
		status=0
		synth-step -p mixed.tar -N 20 --teachers 1 --draw iteration --seed $seed --device cuda -o x.ts <unit.ts 2>err || status=$?
		[ $status -eq 1 ]
		[ ! -e x.ts ]
		if [ -e x.ts.good ]; then break; fi
	done
	grep -q 'iteration [1-9][0-9]*: .* is not finite.*; its last good state is in x.ts.good$' err
	synth-step -p sane.ts --device cuda -o saved.ts <x.ts.good
	tsinfo saved.ts >/dev/null
}

@test "training: the cpu's weights, twice the same bytes" {
	# Adam turns gradients that are nothing but rounding, a bias's in front of a norm, into whole steps.
	local limit=2e-3
	for crop in "--crop pad:2" "--crop rrc:0.5 --dsa color_crop_cutout_flip_scale_rotate --opt adamw --lr 1e-3"; do
		# shellcheck disable=SC2086 # words
		set -- -a convnet2-8 -e 2 -b 30 --lr 0.02 $crop
		train-ckpt "$@" -o cpu.tar <train.ts
		rm -f what
		EMU_RAN="what" train-ckpt "$@" --device cuda -v -o one.tar <train.ts 2>said
		on_the_device said
		# 14 steps, of which 12 are whole batches and all but the first of these graphs
		ran what 11 graph
		ran what 14 pixels
		EMU_ORDER=shuffle EMU_STREAMS=late train-ckpt "$@" --device cuda -o two.tar <train.ts
		cmp one.tar two.tar
		for f in cpu one; do
			mkdir -p "$f" && tar xf "$f.tar" -C "$f"
		done
		apart $limit cpu/0/2.ts one/0/2.ts
		limit=5e-2
	done
}

@test "training in bf16 learns, and says so in its history" {
	train-ckpt -a convnet2-8 -e 3 -b 50 --lr 0.02 --device cuda --precision bf16 --log log -o half.tar <train.ts
	train-ckpt -a convnet2-8 -e 3 -b 50 --lr 0.02 --device cuda --log log -o whole.tar <train.ts
	"$python" - log <<-'END'
	import json, sys
	loss = [json.loads(l)["loss"] for l in open(sys.argv[1]) if '"epoch"' in l]
	assert len(loss) == 6 and loss[2] < loss[0] and abs(loss[2] - loss[5]) < 0.02 and loss[2] != loss[5], loss
	END
	tsinfo --json half.tar | grep -q '"precision": *"bf16"'
}

@test "statistics, labels and students: the cpu's" {
	cutmix -e 2 -b 20 --swap 0.5 -o recipes.ts <unit.ts
	for d in cpu cuda; do
		bnstats -p pool.tar --classwise --device "$d" -v -o "stats-$d.ts" <train.ts 2>>"said-$d"
		EMU_RAN=labelled-$d softlabel -p pool.tar --device "$d" -v -o "soft-$d.ts" <recipes.ts 2>>"said-$d"
	done
	apart 1e-5 stats-cpu.ts stats-cuda.ts
	apart 1e-3 soft-cpu.ts soft-cuda.ts
	EMU_ORDER=shuffle EMU_STREAMS=late softlabel -p pool.tar --device cuda <recipes.ts | cmp - soft-cuda.ts
	for d in cpu cuda; do
		EMU_RAN=trained-$d evaluate -a convnet2-8 -t val.ts -r 2 --json --device "$d" -v -o "result-$d" <soft-cpu.ts 2>>"said-$d"
	done
	EMU_ORDER=shuffle EMU_STREAMS=late evaluate -a convnet2-8 -t val.ts -r 2 --json --device cuda <soft-cpu.ts |
		jq 'del(.students[].seconds)' | cmp - <(jq 'del(.students[].seconds)' result-cuda)
	for what in labelled-cuda trained-cuda; do
		ran $what 12 view_forward # halves change places first
		ran $what 6 mix_images
	done
	ran trained-cuda 12 kl
	on_the_device said-cuda
	"$python" - result-cpu result-cuda <<-'END'
	import json, sys
	a, b = (json.load(open(f)) for f in sys.argv[1:])
	def numbers(x, key=""):
	    if isinstance(x, dict):
	        return [n for k in sorted(x) for n in numbers(x[k], k)]
	    if isinstance(x, list):
	        return [n for v in x for n in numbers(v, key)]
	    return [x] if key in ("accuracy", "loss", "train_loss") and not isinstance(x, str) else []
	x, y = numbers(a), numbers(b)
	assert len(x) > 3 and len(x) == len(y)
	assert all(abs(p - q) < 1e-3 * max(1, abs(p)) or abs(p - q) <= 0.5 for p, q in zip(x, y)), (x, y)
	END
}

# fresh OPTIONS...: against real images; rates so that pixels go far enough to be told apart
fresh()
{
	synth-step --real train.ts --real-batch 5 --opt sgd --lr 1 --sched const --seed 3 --float "$@"
}
export -f fresh

@test "features of fresh images: networks take turns in one graph, the cpu's pixels; split, the same bytes" {
	train-ckpt -a convnet2-16-in -e 0 -n 5 -o untrained.tar <train.ts
	tscut -u 0,1 -o units.ts init.ts
	for options in "-p untrained.tar --match features --teachers 1 --draw iteration --aug dsa" \
	    "-p untrained.tar --match maps:1 --teachers 2 --draw iteration --aug flip,roll:2 --aug-each class" \
	    "-p untrained.tar --match features --teachers 3 --draw iteration --aug dsa --aug-each class --prior pool.tar \
--prior-teachers 2 --ce 5" "-p pool.tar --match features --aug rrc:0.5"; do
		# Few iterations: sooner or later a ReLU sees a value that is nothing but rounding.
		# shellcheck disable=SC2086 # words
		fresh $options -N 3 -o one.ts <units.ts
		# shellcheck disable=SC2086
		fresh $options -N 3 -v --device cuda -o other.ts <units.ts 2>said
		on_the_device said
		apart 1e-4 one.ts other.ts
		# shellcheck disable=SC2086
		EMU_RAN="what" fresh $options -N 5 --device cuda -o other.ts <units.ts
		apart 9 units.ts other.ts 1e-3
		# Two units, of which the first iteration of the first alone is not a graph; an iteration matches in one launch a network.
		ran what 9 graph
		ran what 10 match_means
		ran what 10 class_means
		# shellcheck disable=SC2086
		EMU_ORDER=shuffle EMU_STREAMS=late fresh $options -N 5 -n 2 --device cuda <units.ts |
			EMU_ORDER=reverse EMU_STREAMS=late fresh $options -N 5 --device cuda | cmp - other.ts
	done
}

@test "features: units of other classes, more real images than a pass takes, fewer than were asked for" {
	train-ckpt -a convnet2-8-in -e 0 -n 3 -o untrained.tar <train.ts
	synth-init -i 2 --unit 6 -o few.ts <train.ts
	synth-init -i 2 --unit 5 -o five.ts <train.ts
	for d in cpu cuda; do
		fresh -p untrained.tar --match features --teachers 1 --draw iteration --real-batch 300 -N 2 --device $d -o "all-$d.ts" <few.ts
		fresh -p untrained.tar --match features --teachers 1 --draw iteration --real-batch 15 -N 2 --aug-each class --device $d \
			-o "one-$d.ts" < <(synth-init -i 5 --unit 1 <train.ts)
	done
	apart 2e-4 all-cpu.ts all-cuda.ts
	apart 2e-4 one-cpu.ts one-cuda.ts
	# Units of one size and of 5, 1 and 5 classes, each in turn for long enough to have a graph.
	"$python" - <<-'END'
	import tstream
	header, units = tstream.read("five.ts")
	w = tstream.Writer("classes.ts", header.pop("kind"), header)
	for u in units:
	    w.put(u | ({"labels": u["labels"] * 0 + 3} if u["unit"] == 1 else {}))
	w.finish()
	END
	for d in cpu cuda; do
		fresh -p untrained.tar --match features --teachers 1 --draw iteration -N 3 --device $d -o "classes-$d.ts" <classes.ts
	done
	apart 2e-4 classes-cpu.ts classes-cuda.ts
	# Four classes go through the network at a time.
	load-images --classes @sample/CLASSES -o whole.ts sample/train-images-idx3-ubyte.gz
	train-ckpt -a convnet1-4-in -e 0 -o one.tar <train.ts
	for d in cpu cuda; do
		fresh -p one.tar --match features --teachers 1 --real whole.ts --real-batch 600 -N 1 --device $d -o "passes-$d.ts" <unit.ts
	done
	apart 2e-4 passes-cpu.ts passes-cuda.ts
}

@test "statistics of fresh images, networks of several kinds: the networks on the device, the cpu's pixels" {
	train-ckpt -a convnet2-16-in -e 0 -o a.tar <train.ts
	train-ckpt -a convnet2-8-in -e 0 -o b.tar <train.ts
	cat a.tar b.tar >kinds.tar
	for d in cpu cuda; do
		fresh -p pool.tar --match mixed -N 3 -v --device $d -o "mixed-$d.ts" <unit.ts 2>"said-$d"
		fresh -p kinds.tar --match features -N 3 --device $d -o "kinds-$d.ts" <unit.ts
		step -p pool.tar --prior pool.tar --prior-teachers 2 --ce 5 -N 3 --device $d -o "prior-$d.ts" <unit.ts
		# Adam would make whole steps of gradients that are nothing but rounding.
		step -N 3 --opt sgd --lr 50 --no-clamp --device $d -o "free-$d.ts" <unit.ts
	done
	on_the_device said-cuda
	apart 1e-4 mixed-cpu.ts mixed-cuda.ts
	apart 1e-4 kinds-cpu.ts kinds-cuda.ts
	apart 1e-4 prior-cpu.ts prior-cuda.ts
	apart 1e-4 free-cpu.ts free-cuda.ts
	step -N 3 --opt sgd --lr 50 -o held.ts <unit.ts
	apart 1 held.ts free-cuda.ts 1e-3
}

@test "averaged weights: those in double, and the cpu's accuracies" {
	TEDDY_DEVICE=cuda EMU_RAN=averages "$root/build/tests/t_protocol" >said
	run ! grep '^not ok' said
	ran averages 28 average
	cutmix --protocol best -e 3 -b 20 -o recipes.ts <unit.ts
	softlabel -p pool.tar -o soft.ts <recipes.ts
	for d in cpu cuda; do
		evaluate -a convnet2-8 -t val.ts --report best --ema 0.5 --device "$d" <soft.ts | cut -f 1-3,7 >"said-$d"
	done
	cmp said-cpu said-cuda
}

@test "students: steps of whole batches are two graphs each, call by call the same bytes" {
	cutmix -e 4 -b 20 -o recipes.ts <unit.ts
	softlabel -p pool.tar -o soft.ts <recipes.ts
	for input in recipes soft unit; do
		steps=(--steps 12 -b 20)
		[ $input = unit ] || steps=()
		rm -f what
		EMU_RAN="what" evaluate -a convnet2-8 -t val.ts -r 2 --ema 0.9 "${steps[@]}" --json --device cuda <$input.ts >"$input-graphs"
		# Of each student's 12 steps 8 are whole batches, all but the first of them graphs; DSA's optimiser is a fresh one half-way.
		graphs=28
		[ $input != unit ] || graphs=24
		[ "$(awk '$2 == "graph" { n += $1 } END { print n }' what)" -eq $graphs ]
		for how in EMU_GRAPHS=0 EMU_GRAPHS=1 EMU_GRAPHS=3 "EMU_ORDER=shuffle EMU_STREAMS=late"; do
			# shellcheck disable=SC2086 # words
			env $how evaluate -a convnet2-8 -t val.ts -r 2 --ema 0.9 "${steps[@]}" --json --device cuda <$input.ts |
				diff <(grep -v seconds "$input-graphs") <(grep -v seconds)
		done
	done
}

@test "students: graphs are of one kind of labels, others are made when it changes" {
	cutmix -e 4 -b 25 -o mixed.ts <unit.ts
	cutmix -e 4 -b 25 --mix none -o plain.ts <unit.ts
	"$python" - <<-'END'
	import tstream
	h, mixed = tstream.read("mixed.ts")
	plain = tstream.read("plain.ts")[1]
	w = tstream.Writer("both.ts", "recipes", h)
	for f in mixed[:5] + plain[5:]:
	    w.put(f)
	w.finish()
	END
	EMU_RAN="what" evaluate -a convnet2-8 -t val.ts --json --device cuda <both.ts >graphs
	# Of four steps each all but the first are two.
	[ "$(awk '$2 == "graph" { n += $1 } END { print n }' what)" -eq 12 ]
	EMU_GRAPHS=0 evaluate -a convnet2-8 -t val.ts --json --device cuda <both.ts |
		diff <(grep -v seconds graphs) <(grep -v seconds)
}

@test "students on mixed labels and on plain ones: the cpu's accuracies" {
	tscut -i 0-9 -o bytes.ts train.ts
	cutmix -e 2 -b 20 -o recipes.ts <unit.ts
	cutmix -e 2 -b 20 -o bytes-recipes.ts <bytes.ts
	for d in cpu cuda; do
		for input in recipes.ts bytes-recipes.ts unit.ts bytes.ts; do
			steps=(--steps 6)
			[[ $input != *recipes.ts ]] || steps=()	# they say it themselves
			EMU_RAN="what-$d" evaluate -a convnet2-8 -t val.ts -r 2 "${steps[@]}" --device "$d" <$input
		done | cut -f 1-3 >"said-$d"
	done
	[ "$(wc -l <said-cpu)" -eq 12 ]
	cmp said-cpu said-cuda
	ran what-cuda 12 ce_mixed
	ran what-cuda 24 ce
	ran what-cuda 24 dsa_forward
	ran what-cuda 14 pixels # bytes lie there as bytes: 2 batches of recipes, 6 of each student
}

# t_ops compares every operation, both ways, with a reference in double.
@test "every operation against the reference" {
	TEDDY_DEVICE=cuda "$root/build/tests/t_ops" >ops
	[ "$(grep -c '^ok' ops)" -eq 59 ]
	run ! grep '^not ok' ops
}

# Shuffled and split channels, depthwise convolutions, squeeze and excitation.
@test "networks of the zoo, both ways, as torchvision has them" {
	(cd "$root" && TEDDY_DEVICE=cuda build/tests/t_zoo tests/fixtures/zoo.ts shufflenet_v2_x1_0-small \
		efficientnet_b0-small) >zoo
	[ "$(grep -c '^ok' zoo)" -eq 33 ]
	run ! grep '^not ok' zoo
}

@test "a library without an engine for it is named" {
	EMU_LACKS=conv_dgrad run -1 --separate-stderr step -N 3 --device cuda -o x.ts <unit.ts
	[[ $stderr == *"node "*"has no engine"* ]]
	[ ! -e x.ts ]
}

# With -rdynamic a program's function would take the place of the backend's own of that name.
@test "no name is both the backend's and a program's" {
	nm -D --defined-only "$TEDDY_CUDA" | awk '{ print $3 }' | sort -u >ours
	[ "$(wc -l <ours)" -gt 50 ]
	for program in train-ckpt bnstats synth-step softlabel evaluate; do
		nm -D --defined-only "$root/build/bin/$program" | awk '{ print $3 }' | sort -u >theirs
		[ "$(wc -l <theirs)" -gt 100 ]
		[ -z "$(comm -12 ours theirs)" ]
	done
}

@test "ld.so may look for all names at once" {
	for words in "bnstats -p none" "softlabel -p none" "evaluate -p none -t none" "train-ckpt -a convnet1 -e 1" "likeness -p none" \
		"synth-init -i 1 --from herding -p none"; do
		LD_BIND_NOW=1 run -1 --separate-stderr bash -c "$words --device cuda </dev/null"
		[[ $stderr != *"device cuda"* ]]
	done
}

@test "what cuDNN compiles with is opened where NVIDIA's libraries lie" {
	mkdir -p toolkit/lib64
	echo '#include <stdio.h>
		__attribute__((constructor)) static void opened(void) { fclose(fopen("opened", "w")); }' |
		gcc -shared -fPIC -x c -o toolkit/lib64/libnvrtc.so.13 -
	LD_LIBRARY_PATH=$PWD/toolkit/lib64 bnstats --device cuda -p pool.tar -o /dev/null <train.ts
	rm opened
	if /sbin/ldconfig -p | grep -q libnvrtc.so.13; then skip "ld.so knows another one"; fi
	CUDA_HOME=$PWD/toolkit bnstats --device cuda -p pool.tar -o /dev/null <train.ts
	rm opened
}
