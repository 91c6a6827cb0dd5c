#!/bin/sh
# Runs tests under AddressSanitizer and UBSan: asan.sh PYTHON TEST…   (from the project's root)
#
# The extensions are built with both into .build/asan, apart from the ones in use. Every process of the tests
# (gateway, workers, mock) writes what it finds to .build/asan/report.PID; one such file fails the run, also
# where a worker was replaced and its test passed. PYTHONMALLOC=malloc: inside Python's own arenas an overrun
# would not be seen. Leaks are not looked for: the interpreter keeps much until its end.
# BUILT=directory takes extensions that are there already: those of `make fuzz` are built with the same sanitizers.
set -eu
root=$(pwd)
case $1 in /*) python=$1 ;; *) python=$root/$1 ;; esac
shift
built=${BUILT:-.build/asan/lib}
if [ -z "${BUILT:-}" ]; then
  FASTPROXY_SANITIZE=1 "$python" setup.py -q build --build-base .build/asan --build-lib "$built"
fi
mkdir -p .build/asan
rm -f .build/asan/report.*
for name in "$@"; do set -- "$@" "$root/$name"; shift; done
reports=$root/.build/asan/report
cd "$built"
status=0
LD_PRELOAD=$(${CC:-gcc} -print-file-name=libasan.so) \
  ASAN_OPTIONS=detect_leaks=0:log_path=$reports:handle_segv=1 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$reports \
  PYTHONMALLOC=malloc HYPOTHESIS_PROFILE=asan \
  "$python" -m pytest --config-file "$root/pyproject.toml" --rootdir "$root" \
  -p no:cacheprovider --timeout 300 "$@" || status=$?
# REPORTS_ONLY=1: a test that failed for slowness is not what was asked.
[ -z "${REPORTS_ONLY:-}" ] || status=0
for report in "$reports".*; do
  [ -e "$report" ] || continue
  cat "$report"
  status=1
done
exit $status
