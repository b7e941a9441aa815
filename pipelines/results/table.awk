# Lines of "row, column, value" to a table in Markdown; rows and columns in the order in which they come first. A row or a
# column without any value is left out, and so is a table.
{
	if (!($1 in row)) { row[$1] = ++rows; row_name[rows] = $1 }
	if (!($2 in column)) { column[$2] = ++columns; column_name[columns] = $2 }
	value[$1, $2] = $3
	any[$2] = any[$2] $3
	of[$1] = of[$1] $3
}
END {
	for (c = 1; c <= columns; c++)
		if (any[column_name[c]] != "")
			shown[++n] = column_name[c]
	if (!n)
		exit
	printf "\n**%s**\n\n|", heading
	for (c = 1; c <= n; c++)
		printf " | %s", shown[c]
	printf " |\n|---"
	for (c = 1; c <= n; c++)
		printf "|---:"
	print "|"
	for (r = 1; r <= rows; r++) {
		if (of[row_name[r]] == "")
			continue
		printf "| %s", row_name[r]
		for (c = 1; c <= n; c++)
			printf " | %s", value[row_name[r], shown[c]]
		print " |"
	}
}
