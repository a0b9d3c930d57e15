# What a leg of the conformance run does: `. lib-conformance.sh` after lib.sh, lib-net.sh and lib-pair.sh.
# `$work/results` has a line `LEG TEST VERDICT` for each test: passed, failed, skipped or hung.

# Suites that do not need to write first.
read_only_suites=(Inquiry Mandatory ModeSense6 NoMedia Prefetch10 Prefetch16 PreventAllow Read6 Read10 Read12 Read16
    ReadCapacity10 ReadCapacity16 ReadDefectData10 ReadDefectData12 ReadOnly ReportSupportedOpcodes StartStopUnit
    TestUnitReady Verify10 Verify12 Verify16 iSCSIcmdsn)

# read_leg LEG: what it stands for.
read_leg() {
    local rest=$1
    is_tgt='' guard='' resync='' shards=1 volume_keys='block_size = 512' target_keys='' paths='' mib=128
    case $rest in tgt:*) is_tgt=1 rest=${rest#tgt:} ;; esac
    case $rest in *+resync*) resync=1 rest=${rest/+resync/} ;; esac
    case $rest in *+guard*) guard=1 rest=${rest/+guard/} ;; esac
    case $rest in */*) shards=${rest#*/} rest=${rest%%/*} ;; esac
    shape=$rest suites=("${all_suites[@]}")
    case $shape in
        512n) target_keys='physical_block_size = 512' ;;
        512e) ;;
        thin) target_keys='provisioning = "thin"' ;;
        4kn) volume_keys='block_size = 4096' target_keys='provisioning = "thin"' ;;
        read-only) target_keys='provisioning = "thin"'$'\n''read_only = true' suites=("${read_only_suites[@]}") ;;
        mirror) target_keys='provisioning = "thin"' paths=vip ;;
        pair|standby) target_keys='provisioning = "thin"' paths=alua ;;
        *) die "unknown shape in $1" ;;
    esac
    [ -z "$wanted" ] || suites=("$wanted")
    if [ -n "$resync" ]; then
        # Where initiators are told what becomes of the other node's paths, the suites do not expect to hear it.
        [ "$paths" = vip ] || die "$1: only a mirror has a copy to bring back"
        mib=512
    fi
}

pass() { passed=$((passed + 1)); }
miss() { failed=$((failed + 1)); say "FAIL $leg: $1"; [ -z "${2:-}" ] || tail -n 12 "$2" | cut -c1-160; }
client() { timeout "${client_seconds:-120}" ip netns exec "$ns_client" "$@"; }

# ----- the servers -----

chap_sections() {
    (umask 077; printf 'initiator-in' > "$work/chap-in"; printf 'target-out-16byt' > "$work/chap-out")
    local section
    for section in chap discovery_chap; do
        cat <<TOML

[target.$section]
user = "host"
secret_file = "$work/chap-in"
target_user = "disk"
target_secret_file = "$work/chap-out"
TOML
    done
}

# serve: the leg's server or pair, from new disks. `urls` are the paths to its disk.
serve() {
    rm -rf "$disk_dir"/disk-? "$work/run" "$work/arbiter"
    credentials=''
    if [ -n "$guard" ]; then target_keys+=$'\nheader_digest = "required"' credentials=host%initiator-in@; fi
    pair_disks "$mib"
    if [ -n "$paths" ]; then pair_config "$shards"; else solo_config; fi
    [ -z "$guard" ] || chap_sections >> "$work/twinlun.toml"
    if [ "$paths" = vip ]; then
        pair_up || return 1
        urls=("iscsi://$credentials$vip/$iqn/0")
    elif [ -n "$paths" ]; then
        pair_up || return 1
        urls=("iscsi://${credentials}10.77.0.1/$iqn/0" "iscsi://${credentials}10.77.0.2/$iqn/0")
        [ "$shape" = pair ] || urls=("${urls[1]}" "${urls[0]}")
        wait_for 15 "both nodes to take initiators" client bash -c 'exec 3<>/dev/tcp/10.77.0.1/3260 4<>/dev/tcp/10.77.0.2/3260'
    else
        vip_take a
        { tw a init --yes && tw a up && tw a promote; } >> "$work/log" 2>&1 || return 1
        urls=("iscsi://$credentials$vip/$iqn/0")
        wait_for 15 "the server to take initiators" client bash -c "exec 3<>/dev/tcp/$vip/3260"
    fi
}

# strangers: without the secret nobody comes in.
strangers() {
    if client iscsi-inq "${urls[0]/$credentials/}" > "$work/tool.out" 2>&1; then miss "CHAP keeps strangers out"; else pass; fi
    if client iscsi-ls "$(portal_url | sed "s/$credentials//")" > "$work/tool.out" 2>&1; then miss "discovery is open to strangers"; else pass; fi
    export LIBISCSI_CHAP_TARGET_USERNAME=disk LIBISCSI_CHAP_TARGET_PASSWORD=target-out-16byt
}
portal_url() { local url=${urls[0]}; printf '%s\n' "${url%%/"$iqn"*}"; }

# resync_loop: until it is told to end: the copy of b goes stale all over, and is brought back.
resync_loop() {
    local count=0
    trap 'exit 0' TERM
    while :; do
        tw b disconnect >> "$work/resync.log" 2>&1 || true
        # Far from both ends, where the suites are at work. Reserved by a suite: then there is less to bring back.
        client qemu-io -f raw -c 'write -q -P 0x77 64M 192M' -c 'write -q -P 0x78 256M 192M' "${urls[0]}" \
            >> "$work/resync.log" 2>&1 || true
        tw b connect >> "$work/resync.log" 2>&1 || true
        wait_for 60 "the copies to be equal again" is_synced a || { say stuck > "$work/resync-stuck"; exit 1; }
        count=$((count + 1))
        printf '%s\n' "$count" > "$work/resyncs"
    done
}
begin_resync() { rm -f "$work/resyncs"; resync_loop & resyncing=$!; }
end_resync() {
    wait_for 60 "a resync to end" test -s "$work/resyncs" || true
    end_process "$resyncing" 5
    resyncing=''
    tw b connect >> "$work/resync.log" 2>&1 || true
    if [ ! -e "$work/resync-stuck" ] && [ "$(cat "$work/resyncs" 2>/dev/null || echo 0)" -ge 3 ]; then
        pass
        say "$leg: $(cat "$work/resyncs") resyncs meanwhile"
    else
        miss "too few resyncs meanwhile" "$work/resync.log"
    fi
}

tgt() { in_ns "$ns_a" env TGT_IPC_SOCKET="$work/tgt.socket" tgtadm --lld iscsi "$@"; }
tgt_up() {
    local parameters='' size=512
    case $shape in
        512n) parameters=lbppbe=0 ;;
        512e) ;;
        thin|pair) parameters=thin_provisioning=1 ;;
        4kn) parameters=thin_provisioning=1 size=4096 ;;
        read-only) parameters=thin_provisioning=1,readonly=1 ;;
    esac
    truncate -s "${mib}M" "$disk_dir/tgt-disk"
    ip netns exec "$ns_a" env TGT_IPC_SOCKET="$work/tgt.socket" tgtd -f --iscsi portal=10.77.0.1:3260 > "$work/tgt.log" 2>&1 &
    tgt_pid=$!
    wait_for 10 "tgtd to listen" tgt --op show --mode sys || return 1
    tgt --op new --mode target --tid 1 -T "$iqn"
    tgt --op new --mode logicalunit --tid 1 --lun 1 -b "$disk_dir/tgt-disk" --blocksize "$size"
    [ -z "$parameters" ] || tgt --op update --mode logicalunit --tid 1 --lun 1 --params "$parameters"
    tgt --op bind --mode target --tid 1 -I ALL
    urls=("iscsi://10.77.0.1/$iqn/1")
    [ "$shape" != pair ] || urls+=("iscsi://10.77.0.1/$iqn/1")
}
# tgtd ignores SIGTERM, and there is nothing here worth a clean end.
tgt_down() {
    [ -z "$tgt_pid" ] || { kill -KILL "$tgt_pid" && wait "$tgt_pid"; } 2>/dev/null || true
    tgt_pid=''
    rm -f "$disk_dir"/tgt-disk "$work"/tgt.socket*
}

# ----- the suites -----

# run_suite SUITE: one process for each, as 1.19 leaves hooks behind that falsify the suites that follow. Its verdicts,
# one a line; it counts what it skips as passed. Notes after a verdict are about its cleaning up.
run_suite() {
    client stdbuf -oL iscsi-test-cu --dataloss -v -t "ALL.$1" "${urls[@]}" > "$work/out.$1" 2>&1 || true
    awk -v leg="$leg" -v suite="$1" '
        /^  Test: / { finish(); name = $2; skip = 0; verdict = "" }
        verdict == "" && /passed/ { verdict = substr($0, 1, index($0, "passed")) ~ /SKIPPED/ ? "skipped" : skip ? "skipped" : "passed" }
        verdict == "" && /\[SKIPPED\]/ { skip = 1 }
        verdict == "" && /\.\.\.FAILED|^FAILED/ { verdict = "failed" }
        /^Run Summary/ { finish(); name = "" }
        END { finish() }
        function finish() { if (name != "") print leg, suite "." name, verdict == "" ? "hung" : verdict }
    ' "$work/out.$1" > "$work/verdicts"
    # Tests that a hung one kept from being begun.
    sed -n "s/^ALL\.\($1\..*\)/\1/p" "$work/tests" | while read -r name; do
        grep -q " $name " "$work/verdicts" || say "$leg $name hung"
    done >> "$work/verdicts"
    cat "$work/verdicts" >> "$work/results"
}

# listed TEST: what the list says of it in this shape: `skip`, `fail` or nothing.
listed() {
    awk -v test="$1" -v shape="$shape" '
        !/^#/ && $3 == test { n = split($2, names, ","); for (i = 1; i <= n; i++) if (names[i] == "*" || names[i] == shape) { print $1; exit } }
    ' "$top/scripts/conformance-list"
}

# judge: the verdicts of this leg against the list.
judge() {
    local test verdict
    while read -r test verdict; do
        case $verdict/$(listed "$test") in
            passed/) pass ;;
            skipped/skip) skipped=$((skipped + 1)) ;;
            failed/fail) skipped=$((skipped + 1)) ;;
            passed/*) miss "$test passed: take it off the list" ;;
            *) miss "$test $verdict" "$work/out.${test%%.*}" ;;
        esac
    done < <(awk -v leg="$leg" '$1 == leg { print $2, $3 }' "$work/results")
}

run_suites() {
    local suite
    for suite in "${suites[@]}"; do
        [ -n "$is_tgt" ] || begin_capture "$suite"
        run_suite "$suite"
        end_capture
    done
}

# ----- tools -----

# tool NAME COMMAND…: one of the initiator's tools must succeed.
tool() {
    local name=$1 out=$work/tool.out
    shift
    if client "$@" > "$out" 2>&1; then pass; else miss "$name" "$out"; fi
}

run_tools() {
    local url=${urls[0]} source=$work/source
    tool iscsi-ls iscsi-ls -s "$(portal_url)"
    if grep -q "Lun:0 *Type:DIRECT_ACCESS" "$work/tool.out"; then pass; else miss "iscsi-ls shows LUN 0" "$work/tool.out"; fi
    tool iscsi-inq iscsi-inq "$url"
    tool "iscsi-inq -e 1 -c 0x83" iscsi-inq -e 1 -c 131 "$url"
    tool iscsi-readcapacity16 iscsi-readcapacity16 "$url"
    [ "$shape" != read-only ] || return 0
    # QEMU 7.2 asks a thin disk for the status of ranges in units of 512 bytes, whatever its blocks are, and aborts.
    [ "$shape" != 4kn ] || return 0
    tool "qemu-io write" qemu-io -f raw -c 'write -P 0x5a 1M 3M' -c 'write -P 0xa5 -f 4k 4k' -c 'write -z 8M 1M' -c flush "$url"
    tool "qemu-io read" qemu-io -f raw -c 'read -P 0x5a 1M 3M' -c 'read -P 0xa5 4k 4k' -c 'read -P 0 8M 1M' "$url"
    if grep -q 'Pattern verification failed' "$work/tool.out"; then miss "qemu-io reads what it wrote" "$work/tool.out"; else pass; fi
    tool "qemu-img info" qemu-img info -f raw "$url"
    head -c 16M /dev/urandom > "$source"
    truncate -s "$(client qemu-img info -f raw --output=json "$url" | jq '."virtual-size"')" "$source"
    tool "qemu-img convert to it" qemu-img convert -n -f raw -O raw --target-is-zero -m 16 -W "$source" "$url"
    tool "qemu-img convert from it" qemu-img convert -f raw -O raw "$url" "$work/copy"
    if cmp -n 16777216 "$source" "$work/copy" > "$work/tool.out" 2>&1; then pass; else miss "what qemu-img wrote is read back" "$work/tool.out"; fi
    rm -f "$source" "$work/copy"
    tool "qemu-img bench" qemu-img bench -f raw -c 2000 -d 16 -s 4096 -w "$url"
    tool iscsi-perf iscsi-perf --max 32 --blocks 8 --random --runtime 1 "$url"
}

# ----- what was said -----

# begin_capture NAME: what is said from now on, the first `capture_kib` of it (0: all), is in a file of this name.
begin_capture() {
    local limit=()
    [ "$capture_kib" = 0 ] || limit=(-a "filesize:$capture_kib")
    captured=$work/talk-$1.pcapng
    ip netns exec "$ns_client" dumpcap -q -i eth0 -B 64 -f 'tcp port 3260' "${limit[@]}" -w "$captured" > "$work/dumpcap.log" 2>&1 &
    capture=$!
    wait_for 10 "the capture to begin" test -s "$captured"
}
end_capture() {
    [ -n "$capture" ] || return 0
    wait_for 10 "the capture to be written" capture_is_quiet || true
    end_process "$capture" 5
    capture=''
}

# dissect: no PDU of the target may have a fault.
dissect() {
    mergecap -w "$work/talk.pcapng" "$work"/talk-*.pcapng
    rm -f "$work"/talk-*.pcapng
    [ -z "${KEEP_CAPTURE:-}" ] || cp "$work/talk.pcapng" "$KEEP_CAPTURE"
    if "$top/scripts/dissect" "$work/talk.pcapng" > "$work/dissected" 2>&1; then pass; else miss "faults in what the target said" "$work/dissected"; fi
    if [ -n "$wanted" ] || [ "$(sed -n 's/^dissect: \([0-9]*\) PDUs.*/\1/p' "$work/dissected")" -ge 1000 ]; then pass; else miss "the capture has hardly a PDU" "$work/dissected"; fi
    say "$leg: $(tail -n 1 "$work/dissected")"
}
capture_is_quiet() { local size; size=$(stat -c %s "$captured"); sleep 0.1; [ "$size" = "$(stat -c %s "$captured")" ]; }

# header_digests: tshark computes every header's digest itself, and finds it right.
header_digests() {
    tshark -r "$work/talk.pcapng" -c 20000 -V -Y iscsi.headerdigest32 2>/dev/null | grep -o 'HeaderDigest: .*' > "$work/digests" || true
    if grep -v 'Good CRC32' "$work/digests" > "$work/bad-digests"; then miss "digests are wrong" "$work/bad-digests"; else pass; fi
    if [ "$(wc -l < "$work/digests")" -ge 50 ]; then pass; else miss "hardly any header has a digest"; fi
}

# ----- the legs -----

twinlun_leg() {
    serve || { show_logs; die "$leg: the server did not come up"; }
    [ -z "$guard" ] || strangers
    [ -z "$resync" ] || begin_resync
    run_suites
    judge
    begin_capture tools
    run_tools
    end_capture
    [ -z "$resync" ] || end_resync
    dissect
    [ -z "$guard" ] || header_digests
    unset LIBISCSI_CHAP_TARGET_USERNAME LIBISCSI_CHAP_TARGET_PASSWORD
    if [ -n "$(daemon_pid a)" ]; then pass; else miss "twinlund is still there at the end"; fi
    [ -z "$paths" ] || same_copies
    pair_down
    vip_drop a
}

# same_copies: after all that, both disks hold the same bytes.
same_copies() {
    local bytes
    wait_for 30 "both copies to be up to date" both_synced || { miss "both copies are up to date at the end"; return; }
    bytes=$(status a .size_bytes)
    tw a down >> "$work/log" 2>&1 || true
    tw b down >> "$work/log" 2>&1 || true
    if pair_equal "$bytes" > "$work/cmp" 2>&1; then pass; else miss "both disks hold the same" "$work/cmp"; fi
}

tgt_leg() {
    tgt_up || { tail "$work/tgt.log"; die "$leg: tgtd did not come up"; }
    run_suites
    tgt_down
}

# ----- the table -----

# leg_counts LEG FAMILY: passed/failed/skipped of that family; each family is a part of ALL.
leg_counts() {
    awk -v leg="$1" -v family="$2" '
        NR == FNR { if (index($0, family ".") == 1) member[substr($0, length(family) + 2)] = 1; next }
        $1 == leg && ($2 in member) { count[$3 == "hung" ? "failed" : $3]++ }
        END { printf "%d/%d/%d\n", count["passed"], count["failed"], count["skipped"] }
    ' "$work/tests" "$work/results"
}

table() {
    local leg family shape
    printf '\n%-20s %-6s %-16s %s\n' leg family 'twinlun p/f/s' 'tgt p/f/s'
    for leg in "${legs[@]}"; do
        case $leg in tgt:*) continue ;; esac
        shape=${leg%%[/+]*}
        for family in ALL SCSI iSCSI LINUX; do
            printf '%-20s %-6s %-16s %s\n' "$leg" "$family" "$(leg_counts "$leg" "$family")" \
                "$(if grep -q "^tgt:$shape " "$work/results"; then leg_counts "tgt:$shape" "$family"; else echo -; fi)"
        done
    done
    say "(failed tests of twinlun that are on the list are the suite's own fault; tgt's are as they are)"
}
