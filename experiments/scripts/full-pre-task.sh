# Needs what setup left, writes 1000 MiB, then lets the main process grow to $1 kB.
set -e
cat /work/ready
if ! dd if=/dev/zero of=/tmp/data bs=1M count=1000; then
    sleep 2     # as a program that tries again before it gives up
    dd if=/dev/zero of=/tmp/more bs=1M count=1
fi
rm /tmp/data
touch /tmp/go
while :; do
    rss=$(awk '/^VmRSS/ {print $2}' /proc/1/status)
    [ "${rss:-0}" -ge "$1" ] && break
    sleep 0.1
done
echo "the main process holds $rss kB"
