# shellcheck shell=bash
# Functions shared by the scripts of this folder, which source this file.
#
#   --dry-run   print the changes without making them
#   --undo      restore the values from before the first run
#
# A value is written only if it differs, so a second run changes nothing. Previous values are recorded
# in $TUNING_STATE until they are restored. A reboot resets the settings, and clears the record because
# it is in /run; run the scripts at each boot (tuning/README.md). Tests set TUNING_ROOT, a prefix of
# /proc and /sys.

TUNING_ROOT=${TUNING_ROOT:-}
TUNING_STATE=${TUNING_STATE:-$TUNING_ROOT/run/ringpost-tuning}
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

# value_of FILE: the content of a kernel file; empty if there is no such file.
value_of() {
    cat "$TUNING_ROOT$1" 2>/dev/null || true
}

# chosen_of FILE: the word in brackets of `always [madvise] never`; other text unchanged.
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

# bare FILE VALUE: a CPU mask without the leading zeros that the kernel adds. Other values are
# unchanged: in a list of CPUs (0,2) a zero is a CPU.
bare() {
    case $1 in
    *_cpus) printf '%s\n' "$2" | sed 's/^[0,]*\(.\)/\1/' ;;
    *) printf '%s\n' "$2" ;;
    esac
}

# set_value FILE VALUE: a file that is missing or refuses the value is reported and skipped.
set_value() {
    local file=$1 wanted=$2 now
    if [ ! -e "$TUNING_ROOT$file" ]; then
        echo "$tuning_name: $file does not exist on this machine"
        return
    fi
    now=$(chosen_of "$file" | tr -s '[:blank:]' ' ')
    [ "$(bare "$file" "$now")" = "$(bare "$file" "$wanted")" ] && return
    echo "$tuning_name: $file: $now -> $wanted"
    [ "$dry_run" = no ] || return 0
    if ! mkdir -p "$TUNING_STATE"; then
        failed=1
        return
    fi
    # The record is written before the value, so that the change can be undone even if the script is
    # killed or the disk is full. The oldest record has the original value.
    if ! grep -qsF "$file	" "$TUNING_STATE/$tuning_name"; then
        if ! printf '%s\t%s\n' "$file" "$now" >>"$TUNING_STATE/$tuning_name"; then
            failed=1
            return
        fi
    fi
    write_value "$file" "$wanted" && return
    echo "$tuning_name: $file: not accepted (not root, or not supported by the device)" >&2
    failed=1
    # An unchanged value need not be restored.
    if [ "$(chosen_of "$file" | tr -s '[:blank:]' ' ')" = "$now" ]; then
        forget "$file"
    fi
}

# write_value FILE VALUE: false if the kernel refuses it.
write_value() {
    { printf '%s\n' "$2" >"$TUNING_ROOT$1"; } 2>/dev/null
}

# forget FILE: removes the file from the record.
forget() {
    local record=$TUNING_STATE/$tuning_name
    grep -vF "$1	" "$record" >"$record.new"
    mv "$record.new" "$record"
    [ -s "$record" ] || rm -f "$record"
}

# With --undo, restores all values that this script has changed, and exits.
undo_if_asked() {
    [ "$undo" = yes ] || return 0
    local file before
    if [ -e "$TUNING_STATE/$tuning_name" ]; then
        while IFS='	' read -r file before; do
            if [ ! -e "$TUNING_ROOT$file" ]; then
                echo "$tuning_name: $file no longer exists; nothing to restore"
                [ "$dry_run" = yes ] || forget "$file"
                continue
            fi
            echo "$tuning_name: $file: restored to $before"
            [ "$dry_run" = no ] || continue
            if write_value "$file" "$before"; then
                forget "$file"
            else
                echo "$tuning_name: $file: not accepted (not root?)" >&2
                failed=1
            fi
        done < <(cat "$TUNING_STATE/$tuning_name")
    fi
    exit "$failed"
}

# Names of the physical network cards.
cards() {
    local folder
    for folder in "$TUNING_ROOT"/sys/class/net/*; do
        [ -e "$folder/device" ] && printf '%s\n' "${folder##*/}"
    done
    return 0
}

# Numbers of the online CPUs, one per line.
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

# mask_of CPU...: the CPU mask in the notation of the kernel, in words of 32 bits, highest first.
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
