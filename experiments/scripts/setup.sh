# Leaves something behind for the pre-task to find.
echo "set up at $(date)" > /work/ready
