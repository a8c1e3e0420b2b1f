# bash completion for ntrack: the program itself knows which words fit.
_ntrack() {
	COMPREPLY=()
	# bash also splits words at colons and equals signs. This joins them again, up to the cursor.
	local line=${COMP_LINE:0:COMP_POINT} words=() starts=() word i last=-1
	for ((i = 0; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if ((i == 0)) || [[ $line == [[:space:]]* ]]; then
			line=${line#"${line%%[![:space:]]*}"}
			words[++last]='' starts[last]=$i
		fi
		((i == COMP_CWORD)) && word=$line
		words[last]+=$word line=${line#"$word"}
	done
	local cur=${words[last]}
	[[ $cur != *[\'\"\`\$]* ]] || return # no offer is safe inside quotes
	for ((i = 0; i <= last; i++)); do # remove quotes and backslashes, and expand nothing
		IFS= read "words[i]" <<<"${words[i]//[\'\"]/}"
	done
	local broken= # the part of the word that readline does not replace
	[[ $cur == *[:=]* && $COMP_WORDBREAKS == *[:=]* ]] && broken=${cur%"${cur##*[:=]}"}
	local what= reply
	while IFS= read -r reply; do
		if [[ -z $what ]]; then
			what=$reply
			continue
		fi
		reply=${reply%%$'\t'*}
		printf -v reply %q "${reply#"$broken"}" # the reply may come from a tracker
		COMPREPLY+=("$reply")
	done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
	case $what in
	files) compopt -o bashdefault -o default 2>/dev/null ;;
	command*)
		i=$((${what#command } + 1)) # the first word of the COMMAND
		if declare -F _command_offset >/dev/null; then
			_command_offset "${starts[i]}"
		elif ((i == last)); then
			while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -c -- "$cur")
		else
			compopt -o bashdefault -o default 2>/dev/null
		fi
		;;
	esac
}
complete -F _ntrack ntrack
