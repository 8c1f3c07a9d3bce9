# Takes half a second, as a real task takes its time, and then needs what setup left.
sleep 0.5
cat /work/ready
