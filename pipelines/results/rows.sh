# What the claims share. A claim is a short script that declares products (files in build/results/DATASET that a line of
# shell makes) and rows (accuracies of students that see them), and ends in "measure", which makes what is missing. Rows
# are kept in rows/DATASET/NAME.json, with the lines that they were made by: one whose lines are those of now is done,
# so rows of different days and machines add up. Claims that have a row in common give it one name.
# Sourced by every claim; usage: CLAIM [--table | --list | --stale] DATASET
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # shared with steps.sh and settings
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
PATH=$root/build/bin:$PATH
export PATH LC_ALL=C.UTF-8 SHELL=$BASH
# shellcheck source=../steps.sh
. "$here/../steps.sh"

usage()
{
	echo "usage: ${0##*/} [--table | --list | --stale] DATASET"
}

whose=results # a folder is that of all claims
mode=run
case ${1-} in
--table | --list | --stale) mode=${1#--} && shift ;;
esac
[ $# -eq 1 ] || bad "one data set expected"
dataset=$1
out=$(realpath -m "${RESULTS_OUT:-$root/build/results}")/$dataset
kept=$(realpath -m "${RESULTS_ROWS:-$here/rows}")/$dataset
device='' gpus='' per_gpu=1 jobs='' historic=in_shell log=''
unset seed # of a function of a claim, never the caller's

declare -A about line note there alias               # of products, by name; $note: what data they are
declare -A of_row of_column how seen pupils also facts # of rows, by name
rows=()                                          # names, in order

# claim HEADING: what stands above its table
claim()
{
	heading=$1
}

# product NAME WORDS LINE: how a file is made. The products that stand in the line are its inputs; -o NAME is added.
product()
{
	[ "${line[$1]-$3}" = "$3" ] || die "$1: two products of this name: ${line[$1]}, and $3"
	about[$1]=$2
	line[$1]=$3
}

# used LINE: the products in it
used()
{
	local word

	for word in $1; do
		word=${word#<}
		[ -z "${line[$word]+x}" ] || echo "$word"
	done
}

# made NAME...: the lines that make these, each once, inputs first
made()
{
	local -A told=()

	tell "$@"
}

tell()
{
	local name

	for name; do
		[ -z "${told[$name]-}" ] || continue
		told[$name]=1
		# shellcheck disable=SC2046 # names
		tell $(used "${line[$name]}")
		printf '%s\n' "${line[$name]} -o $name${note[$name]:+  # ${note[$name]}}"
	done
}

# need NAME...: makes them, unless they are there
need()
{
	local name input paths text run

	for name; do
		[ -z "${there[$name]-}" ] || continue
		paths=() run=in_shell
		read -ra text <<<"${line[$name]}"
		# shellcheck disable=SC2016 # the line has the names, so that rows are the same wherever the data lies
		case ${line[$name]} in
		*' $train') read -ra paths <<<"$train" ;;
		*' $test') read -ra paths <<<"$test" ;;
		esac
		if [ ${#paths[@]} -gt 0 ]; then
			own+=("${paths[@]}")
			read -ra text <<<"load-images $load ${paths[*]}"
		fi
		for input in $(used "${line[$name]}"); do
			need "$input"
			paths+=("$out/$input")
		done
		# What images a path has is not known without reading them; which members were taken is in no history; a
		# table has none.
		[[ ! ${line[$name]} =~ ^load-images|' --only '|^likeness ]] || run=unforetold
		step "$out/$name" "$dataset, ${about[$name]}" "${paths[@]}" -- "$run" "${text[@]}"
		there[$name]=1
	done
}

# in_shell WORD...: a line, in the folder of the products, to $to. Long work is kept in $partial. With $header, headers
# only.
in_shell()
{
	local whole=$*

	[ -n "$header" ] || case $whole in
	train-ckpt*-e\ 0* | train-ckpt*' -i '*) ;;
	train-ckpt* | synth-step* | bnstats* | *' | softlabel '*) whole+=" --state $(printf %q "$partial")/state" ;;
	esac
	if [ -n "$header" ]; then
		whole="${whole// | / --header | } --header"
	else
		export TEDDY_USAGE=$log/$key.usage
	fi
	(cd "$out" && bash -c "set -euo pipefail; $whole -o $(printf %q "$to")")
}

unforetold()
{
	in_shell "$@"
}

# row NAME ROW COLUMN LINE IMAGES...: students by LINE, in which IMAGES stands for the file that they see; $repeats of
# them for each. Their mean has the place ROW, COLUMN in the claim's table.
row()
{
	local set sets=()

	for set in "${@:5}"; do
		sets+=("${alias[$set]-$set}")
	done
	rows+=("$1")
	of_row[$1]=$2
	of_column[$1]=$3
	how[$1]=$4
	seen[$1]=${sets[*]}
	pupils[$1]=$repeats
}

# hard NAME ROW COLUMN IMAGES...: on hard labels, under the literature's protocol
hard()
{
	local name=$1

	# What several claims compare with has one row.
	case ${alias[$4]-$4} in
	base.ts) name=base ;;
	base-noise.ts) name="base-noise" ;;
	esac
	row "$name" "$2" "$3" "evaluate -a $student -t test.ts --protocol $hard_protocol <IMAGES" "${@:4}"
}

# soft NAME ROW COLUMN POOL IMAGES...: on the labels of a pool; without one (-), on hard labels of the same recipes
soft()
{
	local set by=${4#pool-} of=() protocol=$soft_protocol tag=${soft_protocol%% *}

	[ "$4" != - ] || protocol=hard
	for set in "${@:5}"; do
		set=${alias[$set]-$set}
		if [ "$4" = - ]; then
			of+=("recipes-$tag-$set")
			product "${of[-1]}" "recipes of $set" "cutmix $mix --seed 0 <$set"
		else
			of+=("labels-$tag-${by%.*}-$set")
			product "${of[-1]}" "labels of $set by ${by%.*}" "cutmix $mix --seed 0 <$set | softlabel -p $4"
		fi
	done
	row "$1" "$2" "$3" "evaluate -a $soft_student -t test.ts --protocol $protocol <IMAGES" "${of[@]}"
}

# figure NAME COLUMN KEY: another figure of the row, by a jq expression, in a column of its own
figure()
{
	also[$1]+="$2"$'\t'"$3"$'\n'
}

# fact ROW PRODUCT: JSON that the row keeps too, as .facts[PRODUCT]
fact()
{
	facts[$1]+=" $2"
}

# needed ROW: the products that it takes
needed()
{
	echo "${seen[$1]}" "$(used "${how[$1]}")" "${facts[$1]-}"
}

# lines_of ROW: what makes it
lines_of()
{
	# shellcheck disable=SC2046 # names
	made $(needed "$1")
	printf '%s\n' "${how[$1]}  # IMAGES: ${seen[$1]}; seeds 0 to $((pupils[$1] - 1))"
}

# had_lines ROW: those that it was made by; for --stale, which reads no data, without what was said of them
had_lines()
{
	jq -r --arg mode "$mode" '.made[] | if $mode == "stale" then sub("  # --.*"; "") else . end' "$kept/$1.json"
}

# done_row ROW: it has the lines that are wanted now, and students of as many seeds or more
done_row()
{
	local wanted=${pupils[$1]} has

	[ -e "$kept/$1.json" ] || return
	has=$(jq -r '.made[-1] | capture("seeds 0 to (?<last>[0-9]+)$").last | tonumber + 1' "$kept/$1.json")
	[ "$has" -ge "$wanted" ] || return
	pupils[$1]=$has
	lines_of "$1" | cmp -s - <(had_lines "$1") || { pupils[$1]=$wanted && return 1; }
}

# result ROW SET SEED: the file of one student. Rows whose students see the same in the same way have them in common.
result()
{
	[[ ${how[$1]} =~ -a\ ([^ ]+).*\ --protocol\ ([^ ]+) ]] || die "$1: no network or no protocol"
	echo "students/${BASH_REMATCH[1]}-${BASH_REMATCH[2]}-$2-$3.json"
}

# results_of ROW: all of them
results_of()
{
	local set seed

	for set in ${seen[$1]}; do
		for ((seed = 0; seed < pupils[$1]; seed++)); do
			result "$1" "$set" "$seed"
		done
	done
}

# learn ROW: its students, one job each, are put off for "together"
learn()
{
	local set seed inputs=() name file text

	for set in ${seen[$1]}; do
		inputs=("$out/$set")
		for name in $(used "${how[$1]}"); do
			inputs+=("$out/$name")
		done
		for ((seed = 0; seed < pupils[$1]; seed++)); do
			file=$(result "$1" "$set" "$seed")
			[ -z "${there[$file]-}" ] || continue
			there[$file]=1
			read -ra text <<<"${how[$1]/IMAGES/"$set"} --json --seed $seed --threads 1"
			later "$out/$file" "$dataset, $1: student $seed of $set" "${inputs[@]}" -- in_shell "${text[@]}"
		done
	done
}

# isa: the instruction set that filters take by themselves
isa()
{
	local flags

	[ "$TEDDY_DEVICE" = cpu ] || { echo "$TEDDY_DEVICE"; return; }
	flags=$(grep -m 1 '^flags' /proc/cpuinfo || true)
	case "$flags " in
	*' avx512f '*) echo avx512 ;;
	*' avx2 '*) echo avx2 ;;
	*) echo plain ;;
	esac
}

# cost PRODUCT...: of all that they are made from, one by one: seconds, and peak memory of a program in bytes
cost()
{
	local name

	for name in $(made "$@" | sed -E 's/.* -o ([^ ]+).*/\1/'); do
		# A run that was ended right behind the output has left no time, but that of the program.
		[ ! -s "$log/$name.usage" ] || jq -s --arg name "$name" \
			--slurpfile took <(cat "$log/$name.seconds" 2>/dev/null) \
			'{($name): {seconds: ($took[0] // (map(.seconds) | max)), peak: (map(.peak) | max)}}' "$log/$name.usage"
	done | jq -s 'add // {}'
}

# histories FILE...: as tsinfo tells them
histories()
{
	local file

	for file; do
		tsinfo --history "$out/$file" | jq -Rn --arg file "$file" '{($file): [inputs]}'
	done | jq -s add
}

# facts_of PRODUCT...: what they say
facts_of()
{
	local name

	for name; do
		jq --arg name "$name" '{($name): .}' "$out/$name"
	done | jq -s 'add // {}'
}

# write_row ROW: from its students
write_row()
{
	local files row

	mapfile -t files < <(results_of "$1")
	mkdir -p "$kept"
	# shellcheck disable=SC2046,SC2086 # names
	row=$(cd "$out" && cat "${files[@]}" |
		jq -s --tab --arg name "$1" --arg dataset "$dataset" --rawfile made <(lines_of "$1") \
			--arg isa "$(isa)" --arg date "$(date +%F)" --argjson threads "$(nproc)" \
			--slurpfile facts <(facts_of ${facts[$1]-}) --slurpfile history <(histories ${seen[$1]}) \
			--slurpfile cost <(cost ${seen[$1]} $(used "${how[$1]}")) \
			--argjson students "${#files[@]}" -f "$here/row.jq")
	save "$kept/$1.json" <<<"$row"
	say "$dataset, $1: $(cell "$1") %"
}

# cell ROW: mean and deviation
cell()
{
	jq -r 'def short: . * 10 | round / 10 | tostring | if test("[.]") then . else . + ".0" end;
		.accuracy | (.mean | short) + if .deviation then " ± " + (.deviation | short) else "" end' "$kept/$1.json"
}

# finish_rows ROW...: their students, side by side
finish_rows()
{
	local name

	carry+=(in_shell header)
	together students.tsv "$most"
	for name; do
		write_row "$name"
	done
}

# measure: makes what is missing, or shows what there is
measure()
{
	local name missing=() learning=() most

	# Whoever closes the pipe before the end has not asked for measurements.
	case $mode in
	table) table; exit ;;
	list) printf '%s\n' "${rows[@]}"; exit ;;
	stale) stale; exit ;;
	esac
	[[ $dataset != *-val ]] || dataset_name+=", validation split"
	data_set "${dataset%-val}" || { say "$dataset: not in $data, skipped" && return; }
	# "search" measures twice; the folder stays its own.
	[ -n "${log-}" ] || { check_device && begin_steps; }
	need train.ts test.ts
	for name in train.ts test.ts; do
		note[$name]=$(tsinfo --history "$out/$name" | sed -n '1s/^\(load-images\)\{0,1\} *//p')
	done
	for name in "${rows[@]}"; do
		done_row "$name" || missing+=("$name")
	done
	[ ${#missing[@]} -gt 0 ] || say "$dataset, ${0##*/}: there"
	mkdir -p "$out/students"
	most=${slots:-$(nproc)}
	# Row by row, so that what is stopped has left as many as it could; but no core waits for the last student of one.
	for name in "${missing[@]}"; do
		# shellcheck disable=SC2046 # names
		need $(needed "$name")
		learn "$name"
		learning+=("$name")
		[ $((${#queue[@]} % most)) -eq 0 ] || [ "${#queue[@]}" -ge $((4 * most)) ] || continue
		finish_rows "${learning[@]}"
		learning=()
	done
	finish_rows "${learning[@]}"
	end_steps
}

# stale: rows that there are, but by other lines than those of now
stale()
{
	local name

	for name in "${rows[@]}"; do
		[ ! -e "$kept/$name.json" ] || done_row "$name" || echo "$name"
	done
}

# cells: a line each, of the rows that there are
cells()
{
	local name key column

	for name in "${rows[@]}"; do
		if [ -e "$kept/$name.json" ]; then
			printf '%s\t%s\t%s\n' "${of_row[$name]}" "${of_column[$name]}" "$(cell "$name")"
			while IFS=$'\t' read -r column key; do
				[ -z "$key" ] || printf '%s\t%s\t%s\n' "${of_row[$name]}" "$column" \
					"$(jq -r "($key) // \"\"" "$kept/$name.json")"
			done <<<"${also[$name]-}"
		else
			printf '%s\t%s\t\n' "${of_row[$name]}" "${of_column[$name]}"
		fi
	done
}

# table: in Markdown; nothing where no row of the claim's own was measured, but those that it shares
table()
{
	local name claim=${0##*/} any=''

	for name in "${rows[@]}"; do
		[[ $name != "${claim%s}"* ]] || [ ! -e "$kept/$name.json" ] || any=1
	done
	[ -n "$any" ] || return 0
	cells | awk -F '\t' -v heading="$heading, $dataset_name" -f "$here/table.awk"
}

# shellcheck source=settings
. "${RESULTS_SETTINGS:-$here/settings}"
data=$(realpath -m "$data")
[[ $data != *[[:space:]]* ]] || die "$data: data sets in a folder without blanks are expected"
# shellcheck source=products.sh
. "$here/products.sh"
