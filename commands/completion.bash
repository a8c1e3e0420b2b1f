# bash completion for ntrack: the program itself says what fits.
_ntrack() {
	local words=("${COMP_WORDS[@]:0:COMP_CWORD}")
	local cur=${COMP_WORDS[COMP_CWORD]}
	[[ $cur == -* ]] && words+=("$cur")
	local IFS=$'\n'
	COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _ntrack ntrack
