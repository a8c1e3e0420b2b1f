# bash completion for ntrack: the program itself says what fits.
_ntrack() {
	local words=("${COMP_WORDS[@]:0:COMP_CWORD}")
	local cur=${COMP_WORDS[COMP_CWORD]}
	local IFS=$'\n' i
	for ((i = 2; i < COMP_CWORD; i++)); do # after -- there is a command of its own
		[[ ${COMP_WORDS[i]} == -- ]] || continue
		COMPREPLY=()
		((i == COMP_CWORD - 1)) && COMPREPLY=($(compgen -c -- "$cur"))
		return
	done
	[[ $cur == -* ]] && words+=("$cur")
	COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _ntrack ntrack
