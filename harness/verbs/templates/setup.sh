# Runs in the container after its start, before the remount.
echo "set up" > /work/ready
