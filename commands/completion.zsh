#compdef ntrack
# zsh completion for ntrack: the program itself knows which words fit.
_ntrack() {
	local -a lines fit shown
	lines=("${(@f)$("${words[1]}" __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
	case ${lines[1]} in
	files)
		compset -P '--*='
		_files
		;;
	command*) # the line has a COMMAND
		local -i at=$((${lines[1]#command } + 1))
		shift $at words
		((CURRENT -= at))
		_normal
		;;
	*)
		shift lines
		fit=("${(@)lines%%$'\t'*}")
		shown=("${(@)lines/$'\t'/  -- }")
		((${#lines})) && compadd ${${(M)lines:#*$'\t'*}:+-l} -d shown -a fit
		;;
	esac
}
if [[ ${funcstack[1]} == _ntrack ]]; then # zsh has read this file from fpath at the first Tab
	_ntrack
elif (( $+functions[compdef] )); then
	compdef _ntrack ntrack
fi
