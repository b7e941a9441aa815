# A row from its students (results of evaluate, in a list) and what rows.sh says of it.
# What was read from a file, which has one value.
def only: if length == 1 then .[0] else error("not one value") end;
(if length == $students then . else error("students are missing") end) |
.[0].protocol as $protocol | map(.students[0]) as $all | ($all | map(.accuracy)) as $a | ($a | length) as $n |
($a | add / $n) as $mean |
{
	dataset: $dataset,
	row: $name,
	accuracy: {
		mean: $mean,
		deviation: (if $n > 1 then ($a | map((. - $mean) * (. - $mean)) | add / ($n - 1) | sqrt) else null end)
	},
	students: $all,
	protocol: $protocol,
	made: ($made | rtrimstr("\n") | split("\n")),
	facts: ($facts | only),
	history: ($history | only),
	cost: (($cost | only) + { students: { seconds: ($all | map(.seconds) | add) } }),
	threads: $threads,
	isa: $isa,
	date: $date
}
