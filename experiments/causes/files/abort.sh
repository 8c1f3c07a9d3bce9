#!/bin/sh
# Makes a program that does what abort() does as process 1 and becomes it: SIGABRT to itself, which
# a main process without a handler ignores, and then an instruction that nobody may execute.
half() { printf '\0\0\0\0\0\0\0\0'; }
case $(uname -m) in
x86_64)
    machine='\076'
    # getpid; kill(it, 6); hlt
    code='\270\047\0\0\0\017\005\211\307\276\006\0\0\0\270\076\0\0\0\017\005\364'
    ;;
aarch64)
    machine='\267'
    # getpid; kill(it, 6); udf
    code='\210\025\200\322\001\0\0\324\301\0\200\322\050\020\200\322\001\0\0\324\0\0\0\0'
    ;;
*)
    echo "no program for $(uname -m)" >&2
    exit 3
    ;;
esac
{
    # An ELF file of one segment, loaded whole at 0x400000; its code begins behind both headers.
    printf '\177ELF\002\001\001\0'; half
    printf "\\002\\0$machine\\0\\001\\0\\0\\0\\170\\0\\100\\0\\0\\0\\0\\0"
    printf '\100\0\0\0\0\0\0\0'; half
    printf '\0\0\0\0\100\0\070\0\001\0\0\0\0\0\0\0'
    printf '\001\0\0\0\005\0\0\0'; half
    printf '\0\0\100\0\0\0\0\0\0\0\100\0\0\0\0\0'
    printf '\0\001\0\0\0\0\0\0\0\001\0\0\0\0\0\0\0\020\0\0\0\0\0\0'
    printf "$code"
    # What is said to be in the file must be there.
    head -c 200 /dev/zero
} > /tmp/abort
chmod +x /tmp/abort
until [ -e /tmp/go ]; do sleep 0.02; done
exec /tmp/abort
