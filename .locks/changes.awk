# Reads a diff of the locks and says what has changed in them, a line for each package.
/^\+\+\+ / { file = $2; sub(/.*\//, "", file) }
/^[-+][A-Za-z0-9]/ && /==/ {
	split(substr($1, 2), part, "==")
	key = file " " part[1]
	sub(/;.*/, "", part[2])
	if ($0 ~ /^-/) before[key] = part[2]; else after[key] = part[2]
	seen[key] = 1
}
END {
	for (key in seen) {
		if (!(key in before)) print key ": added, " after[key] | "sort"
		else if (!(key in after)) print key ": removed, it was " before[key] | "sort"
		else if (before[key] != after[key]) print key ": " before[key] " -> " after[key] | "sort"
		changed = 1
	}
	if (!changed) print "nothing has changed in .locks"
}
