# bash completion for ntrack: the program itself says what fits.
_ntrack() {
	COMPREPLY=()
	# bash splits words at colons and equals signs, too. Here they are whole, up to the cursor.
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
	[[ $cur != *[\'\"\`\$]* ]] || return # inside quotes nothing can be offered safely
	for ((i = 0; i <= last; i++)); do # without quotes and backslashes; nothing is expanded
		IFS= read "words[i]" <<<"${words[i]//[\'\"]/}"
	done
	local broken= # what readline takes for words of their own, and does not replace
	[[ $cur == *[:=]* && $COMP_WORDBREAKS == *[:=]* ]] && broken=${cur%"${cur##*[:=]}"}
	local what= reply
	while IFS= read -r reply; do
		if [[ -z $what ]]; then
			what=$reply
			continue
		fi
		reply=${reply%%$'\t'*}
		printf -v reply %q "${reply#"$broken"}" # it may come from a tracker
		COMPREPLY+=("$reply")
	done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
	case $what in
	files) compopt -o bashdefault -o default 2>/dev/null ;;
	command*)
		i=$((${what#command } + 1)) # where a command of its own begins
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
