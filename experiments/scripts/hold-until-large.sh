# Waits until the main process holds $1 kB of memory.
while :; do
    rss=$(awk '/^VmRSS/ {print $2}' /proc/1/status)
    [ "${rss:-0}" -ge "$1" ] && break
    sleep 0.1
done
echo "the main process holds $rss kB"
