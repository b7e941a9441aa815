# What tests/gpu measures, and how it says it: rates of the kernels, workloads beside PyTorch's, a whole distillation.
# Sourced by it, with its variables.
# shellcheck shell=bash
# shellcheck disable=SC2154 # they are set there

kernel_rates()
{
	local options=(-r 5)

	[ -z "$small" ] || options=(-r 1 -m 1 -s "1,6,6,8")
	[ -x "$cuda/tests/bench/kernels" ] || { skip "the program is not there"; return; }
	"$cuda/tests/bench/kernels" "${options[@]}" --json >"$work/kernels" || return 1
	cat "$work/kernels" >>"$figures"
	# What is so small that the launch counts has no rate.
	awk -F '[:,}]' '/"kernel"/ { all++; for (i = 1; i < NF; i++) { if ($i == "\"bytes\"") bytes = $(i + 1)
			if ($i == "\"of_copy\"") share = $(i + 1) }
			if (bytes > 3e7) { large++; if (share < .8) slow++; if (low == "" || share < low) low = share } }
		END { printf "%d kernels; of %d that move 30 MB and more, %d are below 80 %% of a copy (least %d %%)\n", all, large,
			slow, 100 * low }' "$work/kernels"
}

# workloads PRECISION
workloads()
{
	local end=-$1

	[ "$1" != fp32 ] || end=
	if [ -n "$small" ]; then
		printf "%s$end\n" synth-convnet2-8-2x8 train-convnet2-8-2x8 label-convnet2-8-2x2x8
	else
		printf "%s$end\n" synth-resnet18-100x224 synth-resnet18-small-100x64 train-resnet18-small-256x64 \
			label-resnet18-small-8x100x64
	fi
}

# Ours, in the precision: a line a workload in $work/ours.
ours()
{
	local w done=0 failed=0 repeats=${small:+1}

	[ -x "$base/tests/bench/bench" ] || { skip "the program is not there"; return; }
	for w in $(workloads "$1"); do
		"$base/tests/bench/bench" --device cuda -v -r "${repeats:-5}" -d "$work/$w.f32" "$w" >"$work/line" \
			2>"$work/said" ||
			{ tail -n 1 "$work/said" && failed=$((failed + 1)) && continue; } # what needs less may do
		grep '^{"plan"' "$work/said" >>"$plans"
		cat "$work/line" >>"$work/ours"
		awk -F '\t' '{ printf "{\"workload\":\"%s\",\"seconds\":%s,\"least\":%s,\"tflop_s\":%.2f,\"megabytes\":%s}\n", $1,
			$2, $3, $4 / $2 / 1000, $7 }' "$work/line" >>"$figures"
		done=$((done + 1))
	done
	echo "$done workloads, $failed without a figure"
	[ "$failed" -eq 0 ]
}

# peer WORKLOAD VARIANT SECONDS: PyTorch's time into $work/peers, or why there is none
peer()
{
	local w=${1%-bf16} device=cuda turn=30 answer median off most log=$out/log/peer-$1.$2.txt

	w=${w%-tf32}
	[ -z "$emulated" ] || device=cpu turn=2
	# With the libraries that it would have found.
	printf 'first %s\noff %s %s %d\nturn %d 3\n' "$work/peer.f32" "$work/$1.f32" "$work/peer.f32" \
		$((10 * $(pictures "$w"))) $turn |
		LD_LIBRARY_PATH=$loaders timeout -k 1 "$3" "$python" "$root/tests/bench/peer.py" -t "$(nproc)" -d $device \
			"$w" "$2" >"$work/answer" 2>"$log"
	answer=$(tail -n 1 "$work/answer")
	if [[ $answer != '{"seconds"'* ]]; then
		echo "$1 $2: ${answer:-no answer in $3 s}"
		return
	fi
	median=$(grep -oE '[0-9.]+(e-?[0-9]+)?' <<<"${answer#*:}" | sort -g |
		awk '{ t[NR] = $1 } END { print t[int(NR / 2) + 1] }')
	off=$(sed -n 's/^{"off": "\(.*\)"}$/\1/p' "$work/answer")
	echo "$1 $2: $median s, off by $off"
	# A peer that computes something else is none. bf16 has 8 bits, TF32 has 11, and gradients go through many roundings.
	case $2 in
	*bf16*) most=".2 .6" ;;
	*tf32*) most=".02 .2" ;;
	*) most="1e-3 .03" ;;
	esac
	if ! awk -v off="$off" -v most="$most" 'BEGIN { split(off, v, " "); split(most, m, " ")
			exit !(off ~ /^[0-9]/ && v[1] < m[1] && v[2] < m[2]) }'; then
		echo "$1 $2: not the same numbers"
		return
	fi
	printf '%s\t%s\t%s\n' "$1" "$2" "$median" >>"$work/peers"
	printf '{"peer":"%s","variant":"%s","seconds":%s,"off":"%s"}\n' "$1" "$2" "$median" "$off" >>"$figures"
}

# pictures WORKLOAD: of a batch
pictures()
{
	local size=${1##*-}

	[[ $1 != label-* ]] || size=${size#*x}
	echo "${size%x*}"
}

# The most telling first: what there is no time for is left out. Every workload meets what is likely to be the fastest and
# what everybody writes, then one of them every kind of PyTorch, then the others do: those that compile take minutes.
peers()
{
	local until=$((deadline - reserve - 10)) w v n=0 missed=0 pairs rest
	local first='bf16-graph-channels-last$|eager$'
	local tries=(bf16:bf16-graph-channels-last fp32:eager bf16:bf16-channels-last bf16:bf16-compile-graph-channels-last
		bf16:bf16 fp32:graph-channels-last tf32:tf32-graph-channels-last bf16:bf16-compile-channels-last
		fp32:channels-last tf32:tf32-compile-graph-channels-last fp32:compile-graph-channels-last)

	[ -z "$emulated" ] || tries=(bf16:bf16-channels-last fp32:eager)
	if [ -n "$emulated" ]; then
		"$python" "$root/tests/bench/peer.py" versions || { skip "$python has no PyTorch"; return; }
	elif ! LD_LIBRARY_PATH=$loaders "$python" "$root/tests/bench/peer.py" devices; then
		skip "$python has no PyTorch, or one that sees no GPU"
		return
	fi
	[ -e "$work/ours" ] || { skip "nothing of ours to compare with"; return; }
	touch "$work/peers"
	pairs=$(for v in "${tries[@]}"; do
		for w in $(workloads "${v%%:*}"); do
			echo "$w ${v#*:}"
		done
	done)
	rest=$(grep -vE " ($first)" <<<"$pairs")
	while read -r -u 3 w v; do
		[ -e "$work/$w.f32" ] || continue
		if [ $((until - SECONDS)) -lt 10 ]; then
			missed=$((missed + 1))
		else
			peer "$w" "$v" $((until - SECONDS < 150 ? until - SECONDS : 150))
		fi
	done 3< <(grep -E " ($first)" <<<"$pairs"; grep '^synth-resnet18-small' <<<"$rest"
		grep -v '^synth-resnet18-small' <<<"$rest")
	n=$(wc -l <"$work/peers")
	echo "$n times of PyTorch; no time for $missed more"
	[ "$n" -gt 0 ] || { [ "$missed" -gt 0 ] && return 3; }
}

# measured WORKLOAD DEFAULT: seconds, of ours
measured()
{
	awk -F '\t' -v w="$1" '$1 == w { t = $2 } END { if (t) print t; exit !t }' "$work/ours" 2>/dev/null || echo "$2"
}

# sizes TIME CLASSES: images a class and epochs of the pool, IPC, iterations, steps of a student. A quarter of the time
# is for the pool, a third for synthesis, a quarter for four students.
sizes()
{
	awk -v time="$1" -v k="$2" -v train="$(measured train-resnet18-small-256x64-bf16 0.03)" \
		-v synth="$(measured synth-resnet18-small-100x64-bf16 0.01)" '
		function within(x, a, b) { return int(x < a ? a : x > b ? b : x) }
		BEGIN {
			per = within(time / 4 / train * 256 / 8 / k, 10, 500)
			ipc = 10
			iterations = time / 3 / (k * ipc / 100 * synth * 3)
			if (iterations < 200) { ipc = 1; iterations *= 10 }
			print per, 8, ipc, within(iterations, 20, 2000), within(time / 16 / train, 50, 2000)
		}'
}

# at_most IMAGES SIZE ARCHIVE OUT: a small archive of so many of each class, or of as many as the smallest has; how many
at_most()
{
	local per=$1 words only

	until words=$(load-images -n "$per" -s "$2" -o "$work/few.ts" "$3" 2>&1); do
		only=$(sed -n 's/.* has only \([0-9]*\) images*$/\1/p' <<<"$words")
		if [ "${only:-$per}" -ge "$per" ]; then
			echo "$words" >&2
			return 1
		fi
		per=$only
	done
	save-images -o "$4" <"$work/few.ts" && echo "$per"
}

# A whole distillation beside random images, as large as the time allows.
distil()
{
	local size=64 net=resnet18-small classes options o status per epochs ipc iterations students

	[ -n "$images" ] || { skip "no --images"; return; }
	command -v parallel || { skip "GNU parallel is not installed"; return; }
	[ -z "$small" ] || { size=16 && net=convnet2-8; }
	load-images -n 1 -s "$size" -o "$work/few.ts" "$images" || return 1
	classes=$(tsinfo --json <"$work/few.ts" | sed -n 's/.*"classes":\[\([^]]*\)\].*/\1/p' | head -n 1 |
		awk -F '","' '{ print NF }')
	read -r per epochs ipc iterations students <<<"$(sizes $((deadline - SECONDS - 10)) "$classes")"
	[ -z "$small" ] || per=10 epochs=4 ipc=1 iterations=4 students=4
	# The whole of a large archive would be decoded for every part of the flow.
	per=$(at_most "$per" "$size" "$images" "$work/train.tar") || return 1
	at_most $((per < 50 ? per : 50)) "$size" "${val:-$images}" "$work/val.tar" || return 1
	echo "$classes classes: $per images of each, $epochs epochs, IPC $ipc, $iterations iterations, $students steps"
	options=(--size "$size" --arch "$net" --per-class "$per" --epochs "$epochs" --first 1 --every $((epochs / 4))
		--ipc "$ipc" --iterations "$iterations" --repeats 1 --hard-steps "$students" --soft-steps "$students"
		--whole-steps 0 --device cuda --precision bf16)
	for o in train synth hard soft; do
		options+=("--$o-opts" -v)
	done
	"$teddy" "${options[@]}" "$work/train.tar" "$work/val.tar" "$out/distilled" >"$work/table" 2>"$work/said"
	status=$?
	grep '^{"plan"' "$work/said" >>"$plans"
	grep -v '^{"' "$work/said"
	[ "$status" -eq 0 ] || return 1
	cat "$work/table"
	awk -F '\t' -v ipc="$ipc" -v k="$classes" 'NR > 1 && $1 != "whole" {
		printf "{\"set\":\"%s\",\"ipc\":%d,\"classes\":%d,\"images\":%d,\"hard\":\"%s\",\"soft\":\"%s\"}\n", $1, ipc, k, $2,
			$3, $5 }' "$out/distilled/table.tsv" >>"$figures"
	awk -F '\t' -v ipc="$ipc" -v where="${val:+on --val}" '{ hard[$1] = $3; soft[$1] = $5 }
		END { printf "IPC %d, hard and soft labels: distilled %s and %s %%, random %s and %s %%, tested %s\n", ipc,
			hard["distilled"], soft["distilled"], hard["random"], soft["random"],
			where ? where : "on the images themselves" }' "$out/distilled/table.tsv"
}

# Every part of every stage of every plan that was made.
backends()
{
	local wrong purposes

	[ -s "$plans" ] || [ -z "${only-}" ] || { skip "no plan was made"; return; }
	wrong=$(grep -oE '"backend":"[^"]*"|"(forward|epilogue|undo|dgrad|wgrad)":"[^"]*"' "$plans" |
		grep -vE '^"backend":"cuda"$|":"(cuda|cudnn|cublaslt):' | sort | uniq -c | sort -rn)
	purposes=$(grep -oE '"purpose":"[a-z]*"' "$plans" | sort -u | wc -l)
	if [ -n "$wrong" ]; then
		echo "$wrong"
		echo "not on cuda: $(head -n 1 <<<"$wrong")"
		return 1
	fi
	echo "$(wc -l <"$plans") plans of $purposes purposes ran on cuda"
	[ "$purposes" -eq 3 ] || [ -n "${only-}" ]
}

# What came out.

quoted()
{
	printf '"%s"' "$(sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g' <<<"$1" | tr -d '\000-\037')"
}

write_json()
{
	local name verdict seconds words comma=''

	echo '{'
	echo "\"passed\": $([ "$failed" -eq 0 ] && echo true || echo false), \"seconds\": $SECONDS,"
	echo '"machine": {'
	while IFS=$'\t' read -r name words; do
		printf '%s\t%s: %s' "$comma" "$(quoted "$name")" "$(quoted "$words")"
		comma=$',\n'
	done <"$machine"
	comma=''
	printf '\n},\n"steps": [\n'
	while IFS=$'\t' read -r name verdict seconds words; do
		printf '%s\t{"step": %s, "status": "%s", "seconds": %d, "said": %s}' "$comma" "$(quoted "$name")" "$verdict" \
			"$seconds" "$(quoted "$words")"
		comma=$',\n'
	done <"$steps"
	printf '\n],\n"figures": [\n'
	sed '$!s/$/,/' "$figures"
	printf ']\n}\n'
}

write_table()
{
	echo
	awk -F '\t' '{ printf "%-20s %s\n", $1, $2 }' "$machine"
	echo
	awk -F '\t' '{ printf "%-22s %-8s %4d s  %s\n", $1, $2, $3, $4 }' "$steps"
	if [ -s "$work/ours" ]; then
		printf '\n%-36s %9s %9s  %9s %6s  %s\n' workload ms TFLOP/s 'PyTorch' ratio variant
		touch "$work/peers"
		awk -F '\t' 'FILENAME == ARGV[1] { if (!($1 in best) || $3 < best[$1]) { best[$1] = $3; name[$1] = $2 } next }
			{ printf "%-36s %9.3f %9.1f", $1, 1e3 * $2, $4 / $2 / 1000
				if ($1 in best) printf "  %9.3f %6.2f  %s", 1e3 * best[$1], best[$1] / $2, name[$1]
				print "" }' "$work/peers" "$work/ours"
	fi
	if [ -s "$work/kernels" ]; then
		printf '\n%-20s %-18s %-5s %9s %10s %8s %s\n' kernel shape type MB us GB/s 'of a copy'
		tr -d '{}"' <"$work/kernels" | awk -F '[:,]' '/^kernel/ {
			printf "%-20s %-18s %-5s %9.2f %10.1f %8.1f %5.0f %%\n", $2, $4, $6, 1e-6 * $8, $10, $12, 100 * $14 }'
	fi
	[ ! -s "$work/table" ] || cat "$work/table"
}

