#compdef ntrack
# zsh completion for ntrack: the program itself says what fits.
_ntrack() {
	local -a given options
	local -i at=${words[(i)--]}
	if ((at < CURRENT)); then # after -- there is a command of its own
		shift $at words
		((CURRENT -= at))
		_normal
		return
	fi
	given=("${(@)words[1,CURRENT-1]}")
	[[ ${words[CURRENT]} == -* ]] && given+=("${words[CURRENT]}")
	options=("${(@f)$("${given[@]}" --generate-bash-completion 2>/dev/null)}")
	if [[ -n ${options[1]} ]]; then
		compadd -- "${options[@]}"
	else
		_files
	fi
}
(( $+functions[compdef] )) && compdef _ntrack ntrack
