# What the pipelines share: steps that are done once, whatever ends them, their time, tables. Sourced; needs $here, and
# $out, the outcome's folder.
#
# A step makes one file whole or not at all. It is done when the file is intact and is the one wanted. What that is, a
# command listed in $historic says itself: run with header=--header it writes to $to what its output's history would be.
# For all others it is their words and what they are made from. What comes from elsewhere counts by its bytes as well:
# streams that were cut or joined have the history of the whole. Of a step there is in log/ (KEY: the output's name)
#	KEY.made     how it was called and, without a history, what it was made from and the digest of what it made;
#	             with one, the digests of what came from elsewhere, and that of a result, which has none in it
#	KEY.seen     size, time and inode of the file when it was last read whole, and what it said then
#	KEY.seconds  how long it took, with what earlier runs spent on the part of it that was kept
#	KEY.usage    seconds and peak memory of every program in it
# and, as long as it is under way, the folder partial/KEY-HASH, where HASH stands for what is wanted.
# shellcheck shell=bash
# shellcheck disable=SC2154 # out, here
# shellcheck disable=SC2034 # the pipelines use them

historic='' # commands whose outputs have histories that can be foretold
heavy=''    # commands that do the method's own work: the rest is overhead
own=()      # the user's files: known by their newest time and their path, since they may be large
sshlogin='' # hosts to spread jobs over
queue=() left=() carry=() remade=() header='' partial=''

# shellcheck source=machine.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

bad()
{
	echo "${0##*/}: $*; -h tells the usage" >&2
	exit 2
}

# number NAME VALUE [LEAST]
number()
{
	if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || [ "$2" -lt "${3-1}" ]; then
		bad "$1 $2: a whole number, at least ${3-1}, expected"
	fi
}

# set_option --NAME VALUE...: the variable of this name
set_option()
{
	local name=${1#--}

	[ $# -gt 1 ] || bad "$1: a value is needed"
	printf -v "${name//-/_}" %s "$2"
}

# split NAME...: options that came in one word become an array of words, split at blanks and ends of lines
split()
{
	local -n options_of

	for options_of; do
		IFS=$' \t\n' read -rd '' -a options_of <<<"$options_of" || true
	done
}

say()
{
	printf '%s  %s\n' "$(date +%T)" "$*" >&2
}

# well_formed FILTER ARGUMENT...: a command line that is wrong ends the run before any work. A filter sees that before it
# looks for its files, which are not there yet.
well_formed()
{
	local said status=0

	said=$("$@" --header -o /dev/null 2>&1 >/dev/null </dev/null) || status=$?
	[ "$status" -ne 2 ] || { echo "$said" >&2 && exit 2; }
}

# begin_steps: the folder and what the steps need
begin_steps()
{
	own_folder
	mkdir -p "$out/log"
	log=$out/log began=$EPOCHREALTIME worked=0
	# Stages of one pipe share the cores: a thread that waits must not keep one busy.
	export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
	# A bundle has it, as it may lie on a machine that is too old for it.
	[ ! -x "$here/../bin/teddy-check" ] || "$here/../bin/teddy-check" || exit
	command -v load-images >/dev/null || die "the filters are not there; build them with make"
	command -v parallel >/dev/null || die "GNU parallel is not installed"
	take_folder
	find "$out/" -type f -regex '.*/[.][^/]*[.][0-9]+[.]tmp' -delete # of filters that were killed
	take_device
	save "$log/pipeline" <<<"$whose"
}

end_steps()
{
	rmdir "$out/partial" 2>/dev/null || true
	rm -f "$log"/gpu-*.lock
}

# save FILE: standard input, whole or not at all, whatever happens to the machine
save()
{
	local said

	said=$({ cat >"$1.new" && sync "$1.new" && mv "$1.new" "$1"; } 2>&1) || die "$1: ${said##*: }"
}

# stamp FILE: changes whenever it is written
stamp()
{
	stat -Lc '%s %.9Y %i' "$1"
}

# source_stamp PATH: of the user's images: where they are and the newest of their times, with those of labels beside them
source_stamp()
{
	local name=${1##*/} labels file of=("$1")

	labels=${name/images-idx3/labels-idx1}
	labels=${1%"$name"}${labels/images.idx3/labels.idx1}
	for file in "$labels" "${labels%.gz}" "$labels.gz"; do
		[ "$file" = "$1" ] || [ ! -e "$file" ] || of+=("$file")
	done
	realpath "$1" || return
	find -L "${of[@]}" -printf '%T@\n' | LC_ALL=C sort -n | tail -n 1
}

# json_history: the history of a result of evaluate; fails where the result is no JSON
json_history()
{
	awk '{ all = all $0 }
		/^  "history": / { on = 1 }
		on { line = $0; gsub(/^ +/, "", line); printf "%s", line }
		on && /^  \]/ { on = 0 }
		END {
			print ""
			gsub(/"([^"\\]|\\.)*"/, "s", all)
			gsub(/-?[0-9][0-9.eE+-]*|true|false|null/, "v", all)
			gsub(/[ \t]/, "", all)
			while (gsub(/\[\]|{}|\[[sv](,[sv])*\]|{s:[sv](,s:[sv])*}/, "v", all))
				;
			exit all != "v"
		}'
}

# look_at FILE: $had is what it says of itself, its history or else its digest, $sum the digest of a result; fails when it
# is not there or damaged
look_at()
{
	local seen=$log/$key.seen now lines=() status=0

	[ -e "$1" ] || return
	now=$(stamp "$1") || die "$1: it went away"
	[ ! -e "$seen" ] || mapfile -t lines <"$seen"
	had=${lines[1]-} sum=${lines[2]-}
	[ "$now" != "${lines[0]-}" ] || return 0
	sum=
	case ${1##*/} in
	*.json) had=$(json_history <"$1") && sum=$(sha256sum <"$1") || status=$? ;;
	*.ts | 02-*.tar | pool-*.tar) had=$(tsinfo --history --json "$1" 2>/dev/null) || status=$? ;;
	*) had=$(sha256sum <"$1") || status=$? ;;
	esac
	[ "$status" -lt 128 ] || die "$1: not looked at, status $status"
	[ "$status" -eq 0 ] || return
	printf '%s\n' "$now" "$had" ${sum:+"$sum"} | save "$seen" || exit
}

# digest FILE: of something that a step is made from; read again only when it was written
digest()
{
	local name=${1#"$out"/} seen now sum lines=()

	seen=$log/${name//\//-}.digest
	now=$(stamp "$1") || die "$1: no such file"
	[ ! -e "$seen" ] || mapfile -t lines <"$seen"
	if [ "$now" != "${lines[0]-}" ]; then
		sum=$(sha256sum <"$1") || die "$1: it cannot be read"
		lines=("$now" "${sum%% *}")
		printf '%s\n' "${lines[@]}" | save "$seen" || exit
	fi
	echo "${lines[1]}"
}

# made_from FILE...: a line each
made_from()
{
	local file is

	for file; do
		if [[ " ${own[*]} " == *" $file "* ]] || [ -d "$file" ]; then
			is=$(source_stamp "$file" | tr '\n' ' ') || return
		else
			is=$(digest "$file") || return
		fi
		echo "from ${file##*/} $is"
	done
}

# bytes_of FILE...: a line for each that comes from elsewhere, whatever its name; $own files are known in their own way
bytes_of()
{
	local file is

	for file; do
		[[ $file != "$out"/* && " ${own[*]} " != *" $file "* ]] || continue
		is=$(digest "$file") || return
		echo "bytes $is"
	done
}

# step_words COMMAND...: what the result depends on, a line a word. How many threads did it, and where it lies, is not.
step_words()
{
	local word

	shift
	while [ $# -gt 0 ]; do
		word=${1//"$out"\//}
		[[ " ${own[*]} " != *" $1 "* ]] || word=${1##*/}
		case $1 in
		--threads) shift ;;
		-v) ;;
		*) printf '%q\n' "$word" ;;
		esac
		shift
	done
}

# options <LINES: of words, an option with its value a line, tab between them
options()
{
	awk '/^-.*[a-zA-Z]/ { if (name != "") print name "\t"; name = $0; next }
		{ print (name != "" ? name : "-") "\t" $0; name = "" }
		END { if (name != "") print name "\t" }'
}

# changed_options OLD NEW: what was otherwise in the words of before
changed_options()
{
	awk -F '\t' 'NR == FNR { old[$1] = old[$1] " " $2; next }
		{ new[$1] = new[$1] " " $2; if (!($1 in seen)) order[++n] = $1; seen[$1] = 1 }
		function add(text) { said = said (said == "" ? "" : ", ") text }
		END {
			for (i = 1; i <= n; i++)
				if (order[i] == "-")
					other = old["-"] != new["-"]
				else if (!(order[i] in old))
					add(order[i] " was not given")
				else if (old[order[i]] != new[order[i]])
					add(order[i] " was" old[order[i]])
			for (o in old)
				if (!(o in new))
					add(o " was" (old[o] == " " ? " given" : old[o]))
			print said == "" && other ? "it was called with" old["-"] : said
		}' <(options <<<"$1") <(options <<<"$2")
}

# why_again RECORD: the step is done again, in words; nothing when it never was
why_again()
{
	local old new said file

	[ -e "$1" ] || return 0
	old=$(grep -v '^from \|^made \|^bytes ' "$1") || true
	new=$(step_words "${command[@]}")
	said=$(changed_options "$old" "$new")
	if [ -z "$said" ] && [ ! -e "$output" ]; then
		said="it is not there"
		! [ -d "$partial" ] || said="it was not finished"
	fi
	for file in "${inputs[@]}"; do
		[ -z "$said" ] || break
		if [[ " ${remade[*]} " == *" ${file##*/} "* ]] ||
			{ grep -q "^from ${file##*/} " "$1" && ! grep -qxF "$(made_from "$file")" "$1"; }; then
			said="${file##*/} is another"
		fi
	done
	[ -n "$said" ] || look_at "$output" || said="it is damaged"
	printf '          %s: %s\n' "${doing%%:*}" "${said:-it was made from something else}" >&2
}

# fresh: the output is intact and the one wanted
fresh()
{
	local record=$log/$key.made line words='' had_bytes='' made=''

	look_at "$output" || return 1
	if [ -e "$record" ]; then
		while IFS= read -r line; do
			case $line in
			'made '*) made=$line ;;
			'bytes '*) had_bytes+=${had_bytes:+$'\n'}$line ;;
			*) words+=${words:+$'\n'}$line ;;
			esac
		done <"$record"
	fi
	if [ -n "$foretold" ]; then
		[ "$had" = "$wanted" ] && [ "$had_bytes" = "$bytes" ] && [ "${made:-made $sum}" = "made $sum" ]
	else
		# Without the line the step was ended between its output and its record.
		[ "$words" = "$wanted" ] && [ "${made:-made $had}" = "made $had" ]
	fi
}

# foretell COMMAND...: the history that its stream would have. What fails has said why, and the reader's word on a stream
# that does not come would be a second one.
foretell()
{
	local status

	to=- header=--header "$@" | tsinfo --history --json 2>/dev/null
	status=("${PIPESTATUS[@]}")
	[ "${status[0]}" -eq 0 ] || exit "${status[0]}"
	[ "${status[1]}" -eq 0 ] || die "$doing: its history was not told, status ${status[1]}"
}

# prepare_step OUTPUT WORDS INPUT... -- COMMAND...: $todo says whether there is something to do; then all is ready for it
prepare_step()
{
	output=$1 doing=$2 inputs=() todo=''
	shift 2
	while [ "$1" != -- ]; do
		inputs+=("$1")
		shift
	done
	shift
	command=("$@") key=${output#"$out"/} foretold='' bytes=''
	key=${key//\//-}
	if [[ " $historic " == *" $1 "* ]]; then
		foretold=1
		case $output in
		*.json) wanted=$(to=- header=--header "$@" | json_history) || exit ;;
		*) wanted=$(foretell "$@") || exit ;;
		esac
		bytes=$(bytes_of "${inputs[@]}") || exit
	else
		wanted=$(step_words "$@" && made_from "${inputs[@]}") || exit
	fi
	partial=$(sha256sum <<<"$wanted$bytes") || exit
	partial=$out/partial/$key-${partial:0:12}
	if fresh; then
		say "$doing: there"
		[ -n "$foretold" ] || grep -q '^made ' "$log/$key.made" || finish_step
		[ ! -d "$partial" ] || rm -rf "$partial" # of a run that was ended right behind its output
		return
	fi
	todo=1
	why_again "$log/$key.made"
	say "$doing"
	find "$out/partial" -maxdepth 1 -name "${key//[][*?\\]/?}-????????????" ! -name "*${partial: -13}" -exec rm -rf {} + \
		2>/dev/null || true
	rm -f "$output"
	afresh=1
	[ ! -d "$partial" ] || afresh=''
	mkdir -p "$partial" "$(dirname "$output")"
	if [ -n "$foretold" ]; then
		step_words "$@"
		[ -z "$bytes" ] || echo "$bytes"
	else
		printf '%s\n' "$wanted"
	fi | save "$log/$key.made"
}

# finish_step: what prepare_step began; $output is there
finish_step()
{
	[ -e "$output" ] || die "$doing: $output was not made"
	look_at "$output" || die "$output: it is damaged"
	[ -z "$foretold" ] || had=$sum
	[ -z "$had" ] || { cat "$log/$key.made" && echo "made $had"; } | save "$log/$key.made"
	rm -rf "$partial"
	remade+=("${output##*/}")
}

# since TIME [BY [MORE]]: seconds, divided BY, and MORE
since()
{
	awk -v a="$1" -v b="$EPOCHREALTIME" -v by="${2-1}" -v more="${3-0}" 'BEGIN { printf "%.2f\n", (b - a) / by + more }'
}

# spent: what runs that were ended spent on the step under way: each until it last kept something in $partial
spent()
{
	local began=0 before=0

	[ ! -e "$partial/.spent" ] || read -r began before <"$partial/.spent"
	find "$partial" -type f ! -name .spent -printf '%T@\n' | awk -v began="$began" -v before="$before" '
		$1 > last { last = $1 }
		END { print before + (began && last > began ? last - began : 0) }'
}

# spend: $spent, and notes when this run begins
spend()
{
	spent=$(spent)
	save "$partial/.spent" <<<"$EPOCHREALTIME $spent"
}

# step OUTPUT WORDS INPUT... -- COMMAND...: runs the command, which makes OUTPUT whole or not at all, unless it is there.
# The command may keep work that is half done in the folder $partial, and finds it there when it is run again; $afresh
# says that nobody has begun yet.
step()
{
	local before spent

	prepare_step "$@"
	[ -n "$todo" ] || return 0
	before=$EPOCHREALTIME to=$output
	export TEDDY_USAGE=$log/$key.usage
	[ -z "$afresh" ] || rm -f "$TEDDY_USAGE"
	spend
	"${command[@]}"
	unset TEDDY_USAGE
	since "$before" 1 "$spent" | save "$log/$key.seconds"
	[[ " $heavy " != *" ${command[0]} "* ]] || worked=$(since "$before" 1 "$worked")
	finish_step
}

# later OUTPUT WORDS INPUT... -- COMMAND...: a step for "together"
later()
{
	prepare_step "$@"
	[ -n "$todo" ] || return 0
	[ -z "$afresh" ] || rm -f "$log/$key.usage" "$log/$key"
	queue+=("$(printf '%q ' "$key" "$output" "$partial" "${command[@]}")")
	left+=("$(declare -p output doing key foretold partial)")
}

# queued_step WORD: a step out of the queue, a job of GNU parallel
queued_step()
{
	local before=$EPOCHREALTIME key to partial spent

	set -euo pipefail
	eval "set -- $1"
	key=$1 to=$2 partial=$3
	shift 3
	export TEDDY_USAGE=$log/$key.usage
	spend
	"$@" || exit # by errexit, bash 5.2 would end with a complaint of its own
	since "$before" "$at_once" "$spent" | save "$log/$key.seconds"
}

# together LOG JOBS: the steps that were put off, so many at a time. $carry: the names of what their commands need.
together()
{
	local before=$EPOCHREALTIME job at_once=$2

	if [ "${#queue[@]}" -gt 0 ]; then
		carry+=(queued_step spend spent since save die out log at_once)
		side_by_side "$1" "$2" queued_step {} ::: "${queue[@]}"
		worked=$(since "$before" 1 "$worked")
		for job in "${left[@]}"; do
			eval "${job//declare --/}"
			finish_step
		done
	fi
	queue=() left=() carry=()
}

# all_else: a line of the table of times: what this run took besides the method's own work
all_else()
{
	awk -v all="$(since "$began")" -v work="$worked" 'BEGIN {
		printf "  %-30s %7.1f  %.1f %% of this run'"'"'s %.1f\n", "all else", all - work, 100 * (all - work) / all, all }'
}

# seconds OUTPUT...: the time of these steps together, as far as they were done
seconds()
{
	local file

	for file; do
		file=${file#"$out"/}
		cat "$log/${file//\//-}.seconds" 2>/dev/null || true
	done | awk '{ t += $1 } END { printf "%.1f\n", t }'
}

# stage NAME OUTPUT...: a line of the table of times
stage()
{
	printf '  %-30s %7s\n' "$1" "$(seconds "${@:2}")"
}

# quiet: what jobs say, up to the first that failed, which has said why itself: neither GNU parallel's own words on it,
# nor what others say that failed at the same moment
quiet()
{
	exec awk '/^parallel: This job failed:$/ { failed = 1 } !failed && !/^parallel: (Starting no more jobs|SIG)/ { print; fflush() }'
}

# as_told COMMAND: a job of GNU parallel, which would take {} and its like in words of the command itself for its own
as_told()
{
	eval "$1"
}

# side_by_side LOG JOBS COMMAND... ::: WORD...: GNU parallel, a job for each word, which stands where {} is; the first job
# that fails ends them all. $carry: names of variables and functions that the command needs. With --sshlogin a job that
# fails is tried on every host.
side_by_side()
{
	local show=() place=() far=() command=() told=() name word text said reader ended=0

	for ((word = 3; word <= $#; word++)); do
		[ "${!word}" != ::: ] || break
		command+=("${!word}")
	done
	for name in "${@:word + 1}"; do
		text=
		for word in "${command[@]}"; do
			[ "$word" != {} ] || word=$name
			printf -v word '%q ' "$word"
			text+=$word
		done
		told+=("$text")
	done
	carry+=(as_told)
	for name in "${carry[@]}"; do
		if declare -F "$name" >/dev/null; then
			export -f "${name?}"
		else
			export "${name?}"
		fi
	done
	if [ -n "$slots" ]; then
		export -f on_gpu
		export gpus per_gpu log
		place=(on_gpu '{%}')
		carry+=(on_gpu gpus per_gpu log)
	fi
	if [ -n "$sshlogin" ]; then
		export PARALLEL_SSH=${PARALLEL_SSH:-ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10}
		far=(--sshlogin "$sshlogin" --wd "$PWD" --retries $(($(tr -dc , <<<"$sshlogin" | wc -c) + 2)))
		for name in PATH LC_ALL OMP_WAIT_POLICY TEDDY_DEVICE TEDDY_USAGE "${carry[@]}"; do
			far+=(--env "$name")
		done
	elif [ "$2" -eq 1 ]; then
		show=(--ungroup) # a single job shows its own progress
	elif [ -t 2 ]; then
		show=(--bar)
	fi
	set -- parallel --will-cite --quote --jobs "$2" "${show[@]}" --halt now,fail=1 --joblog "$log/$1" "${far[@]}" \
		"${place[@]}" as_told {} ::: "${told[@]}"
	if [ -t 2 ]; then
		"$@"
		return
	fi
	exec {said}> >(quiet >&2)
	reader=$!
	"$@" 2>&"$said" {said}>&- || ended=$?
	exec {said}>&-
	# One that was killed while it tried how many processes there may be leaves some that sleep for hours, and would keep
	# the reader waiting.
	((ended <= 128 || ended >= 192)) || kill "$reader" 2>/dev/null || true
	wait "$reader" || true
	return "$ended"
}

# count STREAM frames|images
count()
{
	tsinfo --json <"$1" | sed -n 's/^[^[]*"'"$2"'": *\([0-9]*\).*/\1/p'
}

# mean RESULT...: of evaluate, a student each: mean and deviation of the accuracy, two fields; "-" where there is none
mean()
{
	[ -e "$1" ] || { printf -- '-\t-\n' && return; }
	awk '/^  "students": / { on = 1 } /^  \]/ { on = 0 }
		on && /^ *"accuracy": / { gsub(/[ ,]/, ""); sub(/.*:/, ""); x[++n] = $0; sum += $0 }
		END {
			for (i = 1; i <= n; i++)
				squares += (x[i] - sum / n) ^ 2
			print (n ? sprintf("%.2f", sum / n) : "-") "\t" (n > 1 ? sprintf("%.2f", sqrt(squares / (n - 1))) : "-")
		}' "$@"
}

# For awk: cell(), a mean with its deviation in a column of 12; padded by hand, since some awks count the bytes of a sign.
# shellcheck disable=SC2034 # the scripts use it
awk_cell='function cell(m, d,   text, width) {
	text = m
	width = length(m)
	if (m != "-" && d != "-") {
		text = m " ± " d
		width += 3 + length(d)
	}
	for (; width < 12; width++)
		text = text " "
	return text
}'
