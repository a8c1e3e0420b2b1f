#compdef ntrack
# zsh completion for ntrack: the program itself says what fits.
_ntrack() {
	local -a given options
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
