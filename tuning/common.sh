# shellcheck shell=bash
# Shared by the scripts of this folder, which are run and not sourced; this file is sourced only.
#
#   --dry-run   say what would be changed, change nothing
#   --undo      put back what was there before the first run
#
# Each value is written only where it differs, so a second run changes nothing. What was there before
# is kept in $TUNING_STATE, until it is put back; a reboot forgets the values themselves, so run the
# scripts at each boot (tuning/README.md). TUNING_ROOT is put before /proc and /sys, for tests.

TUNING_ROOT=${TUNING_ROOT:-}
TUNING_STATE=${TUNING_STATE:-$TUNING_ROOT/var/lib/ringpost-tuning}
tuning_name=${0##*/}
dry_run=no
undo=no
failed=0

for argument in "$@"; do
    case $argument in
    --dry-run) dry_run=yes ;;
    --undo) undo=yes ;;
    *)
        echo "$tuning_name: $argument: the options are --dry-run and --undo" >&2
        exit 2
        ;;
    esac
done

# A file of the kernel as text, nothing if it is not there.
value_of() {
    cat "$TUNING_ROOT$1" 2>/dev/null || true
}

# The chosen one of `always [madvise] never`; other text as it is.
chosen_of() {
    local text
    text=$(value_of "$1")
    case $text in
    *\[*\]*)
        text=${text#*\[}
        text=${text%%\]*}
        ;;
    esac
    printf '%s\n' "$text"
}

# A set of CPUs without the zeroes that the kernel fills it up with; other text as it is.
bare() {
    case $1 in
    0 | *[!0-9a-f,]*) printf '%s\n' "$1" ;;
    *) printf '%s\n' "$1" | sed 's/^[0,]*\(.\)/\1/' ;;
    esac
}

# set_value FILE VALUE: a file that is missing or refuses is said and passed over.
set_value() {
    local file=$1 wanted=$2 now
    if [ ! -e "$TUNING_ROOT$file" ]; then
        echo "$tuning_name: $file is not there on this machine"
        return
    fi
    now=$(chosen_of "$file" | tr -s '[:blank:]' ' ')
    [ "$(bare "$now")" = "$(bare "$wanted")" ] && return
    echo "$tuning_name: $file: $now -> $wanted"
    [ "$dry_run" = no ] || return 0
    if ! mkdir -p "$TUNING_STATE"; then
        failed=1
        return
    fi
    # The oldest record is the true one.
    if ! grep -qsF "$file	" "$TUNING_STATE/$tuning_name"; then
        printf '%s\t%s\n' "$file" "$now" >>"$TUNING_STATE/$tuning_name"
    fi
    if ! printf '%s\n' "$wanted" 2>/dev/null >"$TUNING_ROOT$file"; then
        echo "$tuning_name: $file: not accepted (root? a device without this?)" >&2
        failed=1
    fi
}

# Puts back all that this script has changed, then ends it.
undo_if_asked() {
    [ "$undo" = yes ] || return 0
    local file before
    if [ -e "$TUNING_STATE/$tuning_name" ]; then
        while IFS='	' read -r file before; do
            echo "$tuning_name: $file: back to $before"
            [ "$dry_run" = no ] || continue
            printf '%s\n' "$before" 2>/dev/null >"$TUNING_ROOT$file" || failed=1
        done <"$TUNING_STATE/$tuning_name"
        if [ "$dry_run" = no ] && [ "$failed" = 0 ]; then
            rm -f "$TUNING_STATE/$tuning_name"
        fi
    fi
    exit "$failed"
}

# Names of network cards that are hardware.
cards() {
    local folder
    for folder in "$TUNING_ROOT"/sys/class/net/*; do
        [ -e "$folder/device" ] && printf '%s\n' "${folder##*/}"
    done
    return 0
}

# Numbers of the CPUs that are switched on, one a line.
cpus() {
    local part first last
    for part in $(value_of /sys/devices/system/cpu/online | tr ',' ' '); do
        first=${part%-*}
        last=${part#*-}
        while [ "$first" -le "$last" ]; do
            printf '%s\n' "$first"
            first=$((first + 1))
        done
    done
}

# mask_of CPU...: as the kernel writes sets of CPUs, in words of 32 bits, highest first.
mask_of() {
    local highest=0 cpu word text=
    for cpu in "$@"; do
        if [ "$cpu" -gt "$highest" ]; then highest=$cpu; fi
    done
    for ((word = highest / 32; word >= 0; word--)); do
        local bits=0
        for cpu in "$@"; do
            if [ $((cpu / 32)) = "$word" ]; then bits=$((bits | 1 << cpu % 32)); fi
        done
        if [ -z "$text" ]; then
            text=$(printf '%x' "$bits")
        else
            text+=$(printf ',%08x' "$bits")
        fi
    done
    printf '%s\n' "$text"
}
