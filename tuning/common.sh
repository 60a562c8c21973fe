# shellcheck shell=bash
# Shared by the scripts of this folder, which are run and not sourced; this file is sourced only.
#
#   --dry-run   say what would be changed, change nothing
#   --undo      put back what was there before the first run
#
# Each value is written only where it differs, so a second run changes nothing. What was there before
# is kept in $TUNING_STATE, until it is put back. A reboot forgets the values, and with /run the record
# of them; run the scripts at each boot (tuning/README.md). TUNING_ROOT is put before /proc and /sys,
# for tests.

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

# bare FILE VALUE: a mask of CPUs without the zeroes that the kernel fills it up with. Other values
# stay as they are: in a list of CPUs (0,2) a zero is a CPU.
bare() {
    case $1 in
    *_cpus) printf '%s\n' "$2" | sed 's/^[0,]*\(.\)/\1/' ;;
    *) printf '%s\n' "$2" ;;
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
    [ "$(bare "$file" "$now")" = "$(bare "$file" "$wanted")" ] && return
    echo "$tuning_name: $file: $now -> $wanted"
    [ "$dry_run" = no ] || return 0
    if ! mkdir -p "$TUNING_STATE"; then
        failed=1
        return
    fi
    # Before the value itself, so that whatever ends the script, there is a way back. The oldest record
    # is the true one. A disk that is full must not cost the way back either.
    if ! grep -qsF "$file	" "$TUNING_STATE/$tuning_name"; then
        if ! printf '%s\t%s\n' "$file" "$now" >>"$TUNING_STATE/$tuning_name"; then
            failed=1
            return
        fi
    fi
    write_value "$file" "$wanted" && return
    echo "$tuning_name: $file: not accepted (root? a device without this?)" >&2
    failed=1
    # What was never changed need not be put back, and could not be.
    if [ "$(chosen_of "$file" | tr -s '[:blank:]' ' ')" = "$now" ]; then
        forget "$file"
    fi
}

# write_value FILE VALUE: false if the kernel refuses it.
write_value() {
    { printf '%s\n' "$2" >"$TUNING_ROOT$1"; } 2>/dev/null
}

# forget FILE: takes it from the record.
forget() {
    local record=$TUNING_STATE/$tuning_name
    grep -vF "$1	" "$record" >"$record.new"
    mv "$record.new" "$record"
    [ -s "$record" ] || rm -f "$record"
}

# Puts back all that this script has changed, then ends it.
undo_if_asked() {
    [ "$undo" = yes ] || return 0
    local file before
    if [ -e "$TUNING_STATE/$tuning_name" ]; then
        while IFS='	' read -r file before; do
            if [ ! -e "$TUNING_ROOT$file" ]; then
                echo "$tuning_name: $file has gone, and its value with it"
                [ "$dry_run" = yes ] || forget "$file"
                continue
            fi
            echo "$tuning_name: $file: back to $before"
            [ "$dry_run" = no ] || continue
            if write_value "$file" "$before"; then
                forget "$file"
            else
                echo "$tuning_name: $file: not accepted (root?)" >&2
                failed=1
            fi
        done < <(cat "$TUNING_STATE/$tuning_name")
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
