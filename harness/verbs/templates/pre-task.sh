# Runs in the container after the remount and the delay. Here: does the work of setup
# still stand, and can 32 MiB be had?
cat /work/ready
dd if=/dev/zero of=/dev/null bs=32M count=1
