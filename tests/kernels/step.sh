# Sourced in a guest. `step NUMBER LIMIT_S WORDS COMMAND...` runs one step of the lane; with WORDS, it is to fail, and to say them.
# tests/kernels/lane.py reads what it tells: ": NUMBER begins", then ": NUMBER VERDICT SECONDS" and the end of what the command
# said, indented. What a step leaves that had to be killed would be in the way of the next one: the guest ends with it.
ENDS=$((SECONDS + LEFT_S)) # all steps together
said=/tmp/said
failed=0

step() {
    local number=$1 limit=$2 words=$3 start=$SECONDS status=0 verdict=FAILED shown=400
    shift 3
    if [ $((ENDS - start)) -le 0 ]; then exit 1; fi
    if [ $((ENDS - start)) -lt "$limit" ]; then limit=$((ENDS - start)); fi
    echo ": $number begins"
    timeout --kill-after=10 "$limit" "$@" > $said 2>&1 < /dev/null || status=$?
    if [ $status = 124 ] || [ $status = 137 ]; then
        verdict=KILLED
    elif [ -n "$words" ]; then
        if [ $status != 0 ] && grep -qF -- "$words" $said; then verdict=good; fi
    elif [ $status = 0 ]; then
        verdict=good
    fi
    if [ $verdict = good ]; then shown=30; else failed=1; fi
    echo ": $number $verdict $((SECONDS - start))"
    tail -n $shown $said | sed 's/^/    /'
    if [ $verdict = KILLED ]; then exit 1; fi
}
