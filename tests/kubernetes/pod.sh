#!/bin/sh
# pod.sh ROOT COMMAND...: makes this process the first one of a pod's container. It runs in namespaces of its own
# (pods.py), so all that is mounted goes with it. NAME is the pod's name, SHARED the directory with hosts, key, runs,
# config and mpi. Without a SYSTEM, which is the root directory of a built image, the machine's own /usr is the image's,
# with the files of IMAGE in it.
set -eu
root=$1
shift
hostname "$NAME"
mount --make-rprivate /
mount -t tmpfs -o mode=755 pod "$root"
cd "$root"
mkdir -p usr etc/ssh etc/lockstep etc/mpi proc dev/shm tmp home/lockstep/.ssh run runs config
chmod 1777 tmp dev/shm
chown 1000:1000 home/lockstep
ln -s usr/bin usr/sbin usr/lib usr/lib64 .
mount --rbind "${SYSTEM-}/usr" usr
mount -t proc proc proc
mount -t tmpfs -o size=64m,mode=1777 shm dev/shm
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
if [ -n "${SYSTEM-}" ]; then
    cp -a "$SYSTEM/etc/." etc/
else
    mount --bind "$IMAGE" usr/local/bin
    for file in alternatives ld.so.cache openmpi; do
        [ ! -e /etc/$file ] || cp -a /etc/$file etc/
    done
    echo 'root:x:0:0::/:/bin/sh
lockstep:x:1000:1000::/home/lockstep:/bin/sh
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >etc/passwd
    echo 'lockstep:x:1000:' >etc/group
    cp "$IMAGE/ssh_config" etc/ssh/ssh_config
    cp "$IMAGE/sshd_config" etc/lockstep/
fi
touch etc/hosts
mount --bind "$SHARED/hosts" etc/hosts
mount --bind "$SHARED/key" home/lockstep/.ssh
mount --bind "$SHARED/runs" runs
mount --bind "$SHARED/config" config
mount --bind "$SHARED/mpi" etc/mpi
exec chroot . setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs "$@"
