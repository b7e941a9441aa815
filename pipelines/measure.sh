# What the pipelines of the baselines share, beyond steps.sh: options, data, networks, units, students, the table.
# Sourced behind it. A pipeline has own_option and usage, then calls take_options, begin_steps, begin_measuring and
# load_data.
# shellcheck shell=bash
# shellcheck disable=SC2154 # here, and what steps.sh has
# shellcheck disable=SC2034 # the pipelines use them

version=0.1
# The filters: of the source tree's build, of a bundle, or beside this program, where it is installed.
for filters in "$here/../build/bin" "$here/../bin" "$here"; do
	[ ! -x "$filters/load-images" ] || break
done
PATH=$filters:$PATH
export PATH LC_ALL=C.UTF-8 SHELL=$BASH

size='' gray='' classes='' per_class=''
arch=convnet3 epochs=16 first=2 every=2 batch=128 lr=0.01 train_opts=''
ipc=10 unit=100
student='' soft_student='' repeats=3 hard_steps=1000 soft_steps=500 soft_batch=100
hard_opts='' mix_opts='' soft_opts=''
device='' gpus='' per_gpu=1 precision=''
jobs='' threads=$(nproc) save_every='' sshlogin='' seed=0

usage_data="\
  data      --size S, --gray, --classes LIST, --per-class N"
usage_rest="\
  students  --student ARCH (hard labels; ARCH-in for a convnet), --soft-student ARCH (ARCH), --repeats N (3),
            --hard-steps N (1000), --soft-steps N (500), --soft-batch B (100),
            --hard-opts, --mix-opts, --soft-opts OPTIONS (of evaluate, cutmix, evaluate)
  device    --device cpu|cuda|auto (cpu), --gpus N,N,... (jobs of cuda are spread over these), --per-gpu N (1),
            --precision fp32|tf32|bf16 (fp32)
  run       --jobs N (a core each), --threads N (all cores), --save-every N (as many as take 10 s), --sshlogin HOST,HOST,...
            --seed N (0), -h, -V"

# take_options "$@": $train, $test and $out, behind the options of all and, by own_option, the pipeline's own; it sets
# $taken, the number of an option's words, where they are not two
take_options()
{
	while [ $# -gt 0 ]; do
		taken=2
		[[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
		case $1 in
		-h) usage && exit ;;
		-V) echo "${0##*/} $version" && exit ;;
		--gray) gray=1 taken=1 ;;
		--size | --per-class | --ipc | --unit | --repeats | --hard-steps | --soft-steps | --soft-batch | --jobs | \
		--threads | --per-gpu | --save-every)
			number "$1" "${2-}"
			set_option "$@"
			;;
		--classes | --student | --soft-student | --hard-opts | --mix-opts | --soft-opts | --seed | --device | --gpus | \
		--precision | --sshlogin)
			set_option "$@"
			;;
		--) shift && break ;;
		-*) own_option "$@" || bad "$1: unknown option" ;;
		*) break ;;
		esac
		shift "$taken"
	done
	[ $# -eq 3 ] || bad "three arguments expected: TRAIN TEST OUTDIR"
	number --seed "$seed" 0
	check_device
	[ -z "$sshlogin" ] || [ -z "$gpus" ] || bad "--sshlogin: every host has GPUs of its own; not with --gpus"
	[[ $precision =~ ^(fp32|tf32|bf16)?$ ]] || bad "--precision $precision: fp32, tf32 or bf16 expected"
	train=$1 test=$2 out=$3
	user_files "$train" "$test"
	! within "$train" || bad "$out lies within $train, as a class of it"
	! within "$test" || bad "$out lies within $test, as a class of it"
}

# user_files PATH...: they must be there
user_files()
{
	local file

	for file; do
		[ -e "$file" ] || die "$file: no such file or folder"
	done
	own+=("$@")
}

# pool_option "$@": those of a network that is trained here
pool_option()
{
	case $1 in
	--epochs | --first | --every | --batch)
		number "$1" "${2-}"
		set_option "$@"
		;;
	--arch | --lr | --train-opts) set_option "$@" ;;
	*) return 1 ;;
	esac
}

# begin_measuring ARCH: students are as for teachers of this architecture
begin_measuring()
{
	case $1 in
	convnet*-in) student=${student:-$1} ;;
	convnet*) student=${student:-$1-in} ;;
	*) student=${student:-$1} ;;
	esac
	soft_student=${soft_student:-$1}
	split train_opts mix_opts hard_opts soft_opts
	precise=(${precision:+--precision "$precision"})
	of=(--threads "$threads" "${precise[@]}")
	# As many students at a time as there are of one set, each with its share of the threads.
	student_jobs=${jobs:-$((repeats < threads ? repeats : threads))}
	student_of=(--threads $((threads > student_jobs ? threads / student_jobs : 1)) "${precise[@]}")
	student_jobs=${slots:-$student_jobs}
	rows=() hard_results=() soft_results=() labelled=()
	historic="pool initial units thinned hard labels soft"
	heavy="pool units labels"
	training=$out/01-train.ts
	well_formed evaluate -t "$test" --protocol hard-dsa -a "$student" --steps "$hard_steps" "${student_of[@]}" \
		"${hard_opts[@]}"
	well_formed cutmix -b "$soft_batch" --steps "$soft_steps" "${mix_opts[@]}"
	well_formed evaluate -t "$test" --protocol soft -a "$soft_student" "${student_of[@]}" "${soft_opts[@]}"
}

# The commands of the steps. Their arguments are all that the result depends on besides their input. Output goes to $to;
# with $header only what its header would be. They read $training and $init.

loaded()
{
	load-images "$@" -o "$to"
}

load_data()
{
	local load=(--threads "$threads" ${size:+-s "$size"} ${gray:+--gray} ${classes:+--classes "$classes"}) names=()

	[[ $classes != @* ]] || names=("${classes#@}")
	step "$out/01-train.ts" "training images" "$train" "${names[@]}" -- loaded "${load[@]}" ${per_class:+-n "$per_class"} \
		--seed "$seed" "$train"
	step "$out/01-test.ts" "test images" "$test" "${names[@]}" -- loaded "${load[@]}" "$test"
}

pool()
{
	[ -n "$header" ] || [ -z "$afresh" ] || rm -f "$log/$key.json"
	train-ckpt "$@" -t "$out/01-test.ts" --state "$partial/state" --log "$log/$key.json" ${header:+"$header"} -o "$to" \
		<"$training"
}

# train_run OUTPUT FIRST WORDS: a run from scratch on $training
train_run()
{
	well_formed train-ckpt -a "$arch" -e "$epochs" -f "$2" -k "$every" -b "$batch" --lr "$lr" "${train_opts[@]}" "${of[@]}"
	step "$1" "$3: $arch, $epochs epochs" "$training" "$out/01-test.ts" -- \
		pool -a "$arch" -e "$epochs" -f "$2" -k "$every" -b "$batch" --lr "$lr" "${train_opts[@]}" --seed "$seed" \
		"${of[@]}"
}

statistics()
{
	bnstats "$@" --state "$partial/state" ${header:+"$header"} -o "$to" <"$training"
}

initial()
{
	synth-init "$@" ${header:+"$header"} -o "$to" <"$training"
}

# One unit, a job of GNU parallel. What it had reached when it was stopped stays in its state.
synthesise()
{
	# Not through a pipe: a filter that ends early would leave a second line, of the one before it.
	tscut -u "$1" -o "$partial/$1.unit" "$init" &&
		synth-step "${@:2}" --state "$partial/$1.state" ${save_every:+--save-every "$save_every"} \
			--log "$log/$key-$1.json" -o "$partial/$1.ts" <"$partial/$1.unit"
}

units()
{
	local all most each missing=() u

	if [ -n "$header" ]; then
		synth-step "$@" --header -o "$to" <"$init"
		return
	fi
	[ -z "$afresh" ] || rm -f "$log/$key"-*.json
	all=$(count "$init" frames)
	for ((u = 0; u < all; u++)); do
		tsinfo "$partial/$u.ts" >/dev/null 2>&1 || missing+=("$u")
	done
	most=${slots:-${jobs:-$threads}}
	most=$((most < all ? most : all))
	each=$((threads > most ? threads / most : 1))
	carry=(synthesise init partial log key save_every)
	[ "${#missing[@]}" -eq 0 ] ||
		side_by_side units.tsv "$most" synthesise {} "$@" --threads "$each" ::: "${missing[@]}"
	tscat -o "$to" "$partial"/*.ts
}

archive()
{
	save-images -o "$to" <"$1"
}

picture()
{
	montage --cols "$2" -o "$to" <"$1"
}

# untrained OPTIONS: networks as they begin; no images of validation, no state to keep
untrained()
{
	train-ckpt "$@" ${header:+"$header"} -o "$to" <"$training"
}

# hard IMAGES ...: how good a student is that sees these images
hard()
{
	evaluate -t "$out/01-test.ts" --protocol hard-dsa "${@:2}" --log "$log/$key" ${header:+"$header"} --json -o "$to" <"$1"
}

# labels IMAGES BATCH POOL ...: every view of them with the pool's label, once for all students
labels()
{
	cutmix -b "$2" --seed "$seed" "${@:4}" ${header:+"$header"} <"$1" |
		softlabel -p "$3" "${of[@]}" --state "$partial/state" ${header:+"$header"} -o "$to"
}

# soft LABELLED ...
soft()
{
	evaluate -t "$out/01-test.ts" --protocol soft "${@:2}" --log "$log/$key" ${header:+"$header"} --json -o "$to" <"$1"
}

# random_set NAME: as many real images as the sets that it is compared with, picked at random
random_set()
{
	step "$out/$1.ts" "$1: real images picked at random" "$training" -- \
		initial -i "$ipc" --from real --unit "$unit" --seed "$seed"
}

# views NAME: the set for other programs and for the eye
views()
{
	step "$out/$1.tar" "archive, $1" "$out/$1.ts" -- archive "$out/$1.ts"
	step "$out/$1.png" "picture, $1" "$out/$1.ts" -- picture "$out/$1.ts" $((ipc < 20 ? ipc : 20))
}

# view_of_noise: what synthesis begins with, where it is noise; real images are those of the random set
view_of_noise()
{
	if [ "$from" = noise ]; then
		step "$out/init.png" "picture of the initial noise" "$init" -- picture "$init" $((ipc < 20 ? ipc : 20))
	else
		rm -f "$out/init.png" "$log"/init.png.*
	fi
}

# Students differ by their seed alone. Their threads depend on no other, so that one that is missing is made as it was.

# measure_hard NAME IMAGES STEPS
measure_hard()
{
	local r

	for ((r = 0; r < repeats; r++)); do
		hard_results+=("$out/06-hard-$1/$((seed + r)).json")
		later "$out/06-hard-$1/$((seed + r)).json" "student $((seed + r)) on hard labels, $1: $3 steps" "$2" \
			"$out/01-test.ts" -- hard "$2" -a "$student" --steps "$3" --seed $((seed + r)) "${student_of[@]}" \
			"${hard_opts[@]}"
	done
}

# images_in STREAM: how many; counted once, as it may be large
images_in()
{
	local noted=$log/${1##*/}.images now had='' images

	now=$(stamp "$1") || return
	[ ! -e "$noted" ] || had=$(<"$noted")
	if [ "${had%;*}" != "$now" ] || [ -z "${had##*;}" ]; then
		images=$(count "$1" images) || images=''
		[ -n "$images" ] || die "$1: its images could not be counted"
		had="$now;$images"
		save "$noted" <<<"$had" || exit
	fi
	echo "${had##*;}"
}

# label NAME IMAGES STEPS POOL
label()
{
	local images batch

	images=$(images_in "$2")
	batch=$((soft_batch < images ? soft_batch : images))
	labelled+=("$out/05-labels-$1.ts")
	step "$out/05-labels-$1.ts" "soft labels, $1: $3 steps" "$2" "$4" -- \
		labels "$2" "$batch" "$4" --steps "$3" "${mix_opts[@]}"
}

# measure_soft NAME
measure_soft()
{
	local r

	for ((r = 0; r < repeats; r++)); do
		soft_results+=("$out/07-soft-$1/$((seed + r)).json")
		later "$out/07-soft-$1/$((seed + r)).json" "student $((seed + r)) on soft labels, $1" "$out/05-labels-$1.ts" \
			"$out/01-test.ts" -- soft "$out/05-labels-$1.ts" -a "$soft_student" --seed $((seed + r)) \
			"${student_of[@]}" "${soft_opts[@]}"
	done
}

# students NAME: those that were put off
students()
{
	carry=(hard soft)
	together "$1" "$student_jobs"
}

# measure SET POOL ...: students of these sets on hard labels and, where the pool is not -, on its labels; a row each
measure()
{
	local sets=("$@") i

	for ((i = 0; i < ${#sets[@]}; i += 2)); do
		measure_hard "${sets[i]}" "$out/${sets[i]}.ts" "$hard_steps"
	done
	students hard.tsv
	for ((i = 0; i < ${#sets[@]}; i += 2)); do
		if [ "${sets[i + 1]}" = - ]; then
			row "${sets[i]}" "${sets[i]}.ts" "${sets[i]}" none
			continue
		fi
		label "${sets[i]}" "$out/${sets[i]}.ts" "$soft_steps" "${sets[i + 1]}"
		measure_soft "${sets[i]}"
		row "${sets[i]}" "${sets[i]}.ts" "${sets[i]}" "${sets[i]}"
	done
	students soft.tsv
}

# results KIND NAME: the files
results()
{
	local r

	for ((r = 0; r < repeats; r++)); do
		echo "$out/$1-$2/$((seed + r)).json"
	done
}

# row NAME IMAGES HARD SOFT: of the table, with the names under which the students were measured
row()
{
	rows+=("$*")
}

table()
{
	local line name images hard soft of_hard of_soft
	local seen hard_mean soft_mean

	printf 'set\timages\thard\thard_sd\tsoft\tsoft_sd\n'
	for line in "${rows[@]}"; do
		read -r name images hard soft <<<"$line"
		mapfile -t of_hard < <(results 06-hard "$hard")
		mapfile -t of_soft < <(results 07-soft "$soft")
		seen=$(images_in "$out/$images") && hard_mean=$(mean "${of_hard[@]}") && soft_mean=$(mean "${of_soft[@]}") || return
		printf '%s\t%s\t%s\t%s\n' "$name" "$seen" "$hard_mean" "$soft_mean"
	done
}

# forget_others: students that other options had; a mean over the folder would count them in
forget_others()
{
	local key file

	for key in "$log"/06-hard-*-*.json.made "$log"/07-soft-*-*.json.made; do
		key=${key##*/} key=${key%.made}
		file=$out/${key%-*}/${key##*-}
		[[ " ${hard_results[*]} ${soft_results[*]} " != *" $file "* ]] || continue
		rm -f "$file" "$log/$key" "$log/$key".{made,seen,seconds,usage}
		rmdir "${file%/*}" 2>/dev/null || true
	done
}

# end_measuring: the table, for programs and for people, and where the time went, by the pipeline's own times
end_measuring()
{
	local lines

	lines=$(table)
	save "$out/table.tsv" <<<"$lines"
	forget_others
	end_steps
	awk -F '\t' -v n="$repeats" "$awk_cell"'
		NR == 1 { printf "\n%-20s %7s   %-12s   %s\n", "accuracy, %", "images", "hard labels", "soft labels" }
		NR > 1 { line = sprintf("%-20s %7d   %s   %s", $1, $2, cell($3, $4), cell($5, $6))
			sub(/ +$/, "", line); print line }
		END { printf "mean ± standard deviation of %d students\n", n }' "$out/table.tsv"
	printf '\nseconds\n'
	stage "load" 01-train.ts 01-test.ts
	times
	stage "hard labels, students" "${hard_results[@]}"
	[ ${#labelled[@]} -eq 0 ] || stage "soft labels" "${labelled[@]}"
	[ ${#soft_results[@]} -eq 0 ] || stage "soft labels, students" "${soft_results[@]}"
	all_else
}
