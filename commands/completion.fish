# fish completion for ntrack: the program itself knows which words fit.
function __ntrack_complete
    set -l words (commandline -opc)
    set -l cur (commandline -ct | string unescape)
    set -l lines (command $words[1] __complete $words[2..-1] "$cur" 2>/dev/null)
    switch "$lines[1]"
        case files
            __fish_complete_path (string replace -r '^--[a-z-]*=' '' -- "$cur")
        case 'command *' # the line has a COMMAND
            set -l at (math (string replace 'command ' '' $lines[1]) + 2)
            complete -C (string join ' ' -- (string escape -- $words[$at..-1]) (commandline -ct))
        case '*'
            printf '%s\n' $lines[2..-1]
    end
end
complete -c ntrack -f -a '(__ntrack_complete)'
