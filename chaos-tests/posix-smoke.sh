#!/usr/bin/env bash
# POSIX behaviour of a mounted file system in small checks: posix-smoke.sh MOUNT [ENTRIES]. Prints "ok" and "not ok" lines with
# the seconds that each took; exits non-zero if a check failed. Runs the same on any local file system (try it on ext4).
set -u
mount=$1; entries=${2:-100000}
cd "$mount" || exit 2
work=posix-smoke-$$; mkdir "$work" && cd "$work" || exit 2
failed=0
check() { # NAME COMMAND…
  local name=$1 begin=${EPOCHREALTIME/[.,]/}; shift
  "$@" >/tmp/posix-smoke-$$.out 2>&1; local result=$? ms=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
  local took; took=$(printf '%d.%03d s' $((ms / 1000)) $((ms % 1000)))
  if [ $result = 0 ]; then echo "ok $name ($took)"
  else echo "not ok $name ($took): $(tr '\n' ' ' </tmp/posix-smoke-$$.out | cut -c1-300)"; failed=1; fi
}
fails() { ! "$@"; }
as_other() { setpriv --reuid=12345 --regid=12345 --clear-groups "$@"; }
sh_() { bash -c "$1"; }

check create            sh_ 'echo hello > f && [ "$(cat f)" = hello ]'
check exclusive         sh_ 'set -C; ! echo again 2>/dev/null > f'
check append            sh_ 'echo more >> f && [ "$(wc -l < f)" = 2 ] && [ "$(tail -1 f)" = more ]'
check append-two-handles python3 -c '
import os
a=os.open("ap",os.O_CREAT|os.O_WRONLY|os.O_APPEND); b=os.open("ap",os.O_WRONLY|os.O_APPEND)
for i in range(50): os.write(a,b"a"*100); os.write(b,b"b"*100)
d=open("ap","rb").read(); assert len(d)==10000 and d.count(b"a")==5000, len(d)'
check append-while-read python3 -c '
import mmap, os
w=os.open("aw",os.O_CREAT|os.O_RDWR|os.O_APPEND); r=os.open("aw",os.O_RDONLY)
for i in range(50):
    os.write(w,b"%05d"%i)
    assert os.fstat(r).st_size==5*i+5 and os.pread(r,9,5*i)==b"%05d"%i and os.pread(w,9,5*i)==b"%05d"%i, i
m=mmap.mmap(w,250); assert m[245:250]==b"00049"; m[0:5]=b"first"; m.flush()
os.pwrite(w,b"last",0); d=os.pread(r,300,0); assert d[:10]==b"first00001" and d[250:]==b"last", d'
check rename-over       sh_ 'echo new > g && mv g f && [ "$(cat f)" = new ] && [ ! -e g ]'
check rename-open-target python3 -c '
import os
open("ro1","w").write("old"); open("ro2","w").write("new"); h=open("ro1"); os.rename("ro2","ro1")
assert h.read()=="old" and open("ro1").read()=="new"'
check rename-exchange   python3 -c '
import ctypes,os
open("x1","w").write("1"); open("x2","w").write("2")
l=ctypes.CDLL(None,use_errno=True)
assert l.renameat2(-100,b"x1",-100,b"x2",2)==0, ctypes.get_errno()
assert open("x1").read()=="2" and open("x2").read()=="1"
assert l.renameat2(-100,b"x1",-100,b"x2",1)==-1 and ctypes.get_errno()==17'
check directory-attributes python3 -c '
import os,time
# What a directory says of itself just after a change must be what it says when all caches have run out.
def seen(d): s=os.stat(d); return (s.st_mode, s.st_nlink, s.st_uid, s.st_mtime_ns, s.st_ctime_ns)
os.mkdir("da1"); os.mkdir("da2"); os.mkdir("da3"); now={}
open("da1/f","w").close(); os.chmod("da1",0o750); now["da1"]=seen("da1")
open("da2/f","w").close(); os.rename("da2","da4"); now["da4"]=seen("da4")
open("da3/f","w").close(); os.unlink("da3/f"); os.utime("da3",ns=(1,2)); now["da3"]=seen("da3")
os.mkdir("da5"); os.mkdir("da5/s"); os.rename("da3","da5/s"); now["da5"]=seen("da5"); now["da5/s"]=seen("da5/s"); del now["da3"]
os.mkdir("da6"); f=os.open("da6",os.O_RDONLY); open("da6/f","w").close(); os.unlink("da6/f"); os.rmdir("da6"); time.sleep(0.3)
assert os.fstat(f).st_nlink==0, os.fstat(f).st_nlink
time.sleep(1.5)
later={d:seen(d) for d in now}; assert later==now, (now, later)'
check rename-into-itself sh_ 'mkdir -p d1/d2 && ! mv d1 d1/d2/ 2>/dev/null'
check hole              python3 -c '
f=open("hole","wb"); f.seek(200_000_000); f.write(b"end"); f.close()
f=open("hole","rb"); assert f.read(100)==bytes(100); f.seek(199_999_000); d=f.read(); assert d==bytes(1000)+b"end", len(d)'
check truncate-down-up  python3 -c '
import os
f=open("tr","wb"); f.write(b"x"*100_000); f.close()
os.truncate("tr",50_001); os.truncate("tr",100_000)
d=open("tr","rb").read(); assert d==b"x"*50_001+bytes(49_999), (len(d), d.count(b"x"))'
check truncate-open     python3 -c '
import os
f=os.open("to",os.O_CREAT|os.O_RDWR); os.write(f,b"y"*70_000); os.ftruncate(f,10); os.pwrite(f,b"z",65_536)
d=os.pread(f,100_000,0); assert d==b"y"*10+bytes(65_526)+b"z", len(d); os.fsync(f); os.close(f)
assert open("to","rb").read()==d'
check overwrite-middle  python3 -c '
import os
f=os.open("om",os.O_CREAT|os.O_RDWR); os.write(f,b"a"*300_000); os.fsync(f); os.pwrite(f,b"b"*70_000,100_001); os.close(f)
d=open("om","rb").read(); assert d==b"a"*100_001+b"b"*70_000+b"a"*129_999'
check unlink-while-open python3 -c '
import os
f=os.open("uo",os.O_CREAT|os.O_RDWR); os.write(f,b"still here"); os.unlink("uo")
assert not os.path.exists("uo"); os.write(f,b"!"); assert os.pread(f,100,0)==b"still here!"; assert os.fstat(f).st_nlink==0'
check hard-links        sh_ 'echo l > l1 && ln l1 l2 && [ "$(stat -c %h l1)" = 2 ] && rm l1 && [ "$(cat l2)" = l ] && [ "$(stat -c %h l2)" = 1 ]'
check symlink           sh_ 'ln -s l2 s1 && [ "$(readlink s1)" = l2 ] && [ "$(cat s1)" = l ]'
check symlink-loop      sh_ 'ln -s loop2 loop1; ln -s loop1 loop2; ! cat loop1 2>/tmp/loop && grep -qi "too many levels" /tmp/loop; r=$?; rm -f /tmp/loop; exit $r'
check fifo              sh_ 'mkfifo p && (echo through > p &) && [ "$(cat p)" = through ]'
check device-node       sh_ 'mknod null c 1 3 && [ "$(stat -c %t:%T null)" = 1:3 ]'
check socket            python3 -c 'import socket,os,stat; s=socket.socket(socket.AF_UNIX); s.bind("sock"); assert stat.S_ISSOCK(os.stat("sock").st_mode)'
check times             sh_ 'touch -d "2001-02-03 04:05:06.789012345" t && [ "$(stat -c %y t | cut -c1-29)" = "$(date -d "2001-02-03 04:05:06.789012345" "+%F %T.%N")" ]'
check mode              sh_ 'chmod 4751 t && [ "$(stat -c %a t)" = 4751 ]'
check owner             sh_ 'chown 12345:54321 t && [ "$(stat -c %u:%g t)" = 12345:54321 ]'
check name-255          sh_ 'n=$(printf "%0255d" 0) && touch $n && [ -e $n ] && rm $n'
check name-256          sh_ 'n=$(printf "%0256d" 0) && ! touch $n 2>/dev/null'
check rmdir-not-empty   sh_ 'mkdir -p ne/x && ! rmdir ne 2>/dev/null'
check directory-links   sh_ 'mkdir dl dl/a dl/b && [ "$(stat -c %h dl)" = 4 ] && rmdir dl/a && [ "$(stat -c %h dl)" = 3 ]'
check xattr             python3 -c '
import os
open("xa","w"); os.setxattr("xa","user.k",b"v"*1000); assert os.getxattr("xa","user.k")==b"v"*1000
assert os.listxattr("xa")==["user.k"]; os.removexattr("xa","user.k"); assert os.listxattr("xa")==[]'
check statfs            sh_ 'df . | tail -1 | awk "{exit !(\$2>0 && \$4>0)}"'

mkdir private && chmod 700 private && echo s > private/secret && echo r > readonly && chmod 644 readonly && mkdir sticky && chmod 1777 sticky && echo k > sticky/kept
chmod 755 .
check other-cannot-enter  fails as_other cat private/secret
check other-cannot-write  fails as_other sh -c 'echo x > readonly'
check other-can-read      as_other cat readonly
check other-cannot-create fails as_other touch nope
check other-can-in-sticky as_other touch sticky/mine
check sticky-protects     fails as_other rm -f sticky/kept
check other-cannot-chmod  fails as_other chmod 777 readonly
check setgid-directory    sh_ 'mkdir sg && chgrp 54321 sg && chmod 2775 sg && touch sg/f && mkdir sg/d && [ "$(stat -c %g sg/f)" = 54321 ] && [ "$(stat -c %a sg/d | cut -c1)" = 2 ]'

# 16 threads make the entries; then the directory is listed, listed with attributes, and emptied of half while it is listed.
check big-create python3 - "$entries" <<'PY'
import os,sys
from concurrent.futures import ThreadPoolExecutor
n=int(sys.argv[1]); os.mkdir("big")
def make(r):
    for i in r: os.mknod(f"big/entry{i}")
with ThreadPoolExecutor(16) as pool: list(pool.map(make,[range(k,n,16) for k in range(16)]))
PY
check big-list python3 - "$entries" <<'PY'
import os,sys
n=int(sys.argv[1]); names=os.listdir("big"); assert len(names)==n and len(set(names))==n, len(names)
PY
check big-list-attributes sh_ '[ "$(ls -l big | wc -l)" = '$((entries + 1))' ]'
# What stays is seen exactly once.
check big-remove-while-listed python3 - "$entries" <<'PY'
import os,sys
n=int(sys.argv[1]); seen=[]
with os.scandir("big") as it:
    for k,e in enumerate(it):
        seen.append(e.name)
        if k%2==0: os.unlink(f"big/{e.name}")
assert len(seen)==n and len(set(seen))==n, (len(seen), len(set(seen)))
left=os.listdir("big"); assert set(left)==set(seen[1::2]), len(left)
PY

cd .. && check remove-all rm -rf "$work"
check nothing-left test ! -e "$work"
rm -f /tmp/posix-smoke-$$.out
exit $failed
