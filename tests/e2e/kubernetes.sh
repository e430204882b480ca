#!/usr/bin/env bash
# What a cluster is given: the chart is linted and rendered with the values of several sites, every object fits its schema, what
# can't work is refused, the committed manifests are what the chart renders, its settings are such as lamella-fetcher takes. The
# alert rules are right and fire when they should, for whom they should, and only then; the queries of the dashboard can be read.
# time limit: 300 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
LM_KUBERNETES=$(realpath -m "${LM_KUBERNETES:-$LM_BUILD/kubernetes}")
DEPLOY=$LM_ROOT/deploy
CHART=$DEPLOY/kubernetes/chart
need node jq openssl
for f in bin/helm bin/promtool node_modules/yaml/package.json; do
	[ -e "$LM_KUBERNETES/$f" ] || skip "no $f in $LM_KUBERNETES: $(cat "$LM_KUBERNETES/log" 2>/dev/null || echo "see tests/tools/get-kubernetes-tools")"
done
need_built "$LM_BUILD/fetcher/lamella-fetcher" "$LAMELLA"
make_work kubernetes
export HELM=$LM_KUBERNETES/bin/helm PROMTOOL=$LM_KUBERNETES/bin/promtool
export HELM_CACHE_HOME=$WORK/helm HELM_CONFIG_HOME=$WORK/helm HELM_DATA_HOME=$WORK/helm
OBJECTS=$LM_ROOT/tests/e2e/objects.mjs

render() { # NAME [OPTION...]: $WORK/NAME.yaml
	local name=$1
	shift
	"$HELM" template lamella "$CHART" --namespace lamella "$@" >"$WORK/$name.yaml" 2>"$WORK/out" || fail "$name: $(cat "$WORK/out")"
}
refused() { # PATTERN [OPTION...]
	local pattern=$1
	shift
	! "$HELM" template lamella "$CHART" "$@" >"$WORK/out" 2>&1 || fail "rendered, though $pattern"
	grep -qE -- "$pattern" "$WORK/out" || fail "refused, but not since $pattern: $(cat "$WORK/out")"
}
object() { # FILE KIND NAME JQ-FILTER: true for it
	node "$OBJECTS" "$LM_KUBERNETES" --json "$WORK/$1.yaml" |
		jq -se "[.[] | select(.kind == \"$2\" and .metadata.name == \"$3\")] | length == 1 and (.[0] | $4)" >/dev/null || fail "$1: $2 $3 is not $4"
}

say "the chart"
VALUES=("$DEPLOY"/kubernetes/values/*.yaml)
"$HELM" lint --strict "$CHART" >"$WORK/out" 2>&1 || fail "lint: $(cat "$WORK/out")"
for v in "${VALUES[@]}"; do
	"$HELM" lint --strict "$CHART" -f "$v" >"$WORK/out" 2>&1 || fail "lint with ${v##*/}: $(cat "$WORK/out")"
	render "site-$(basename "$v" .yaml)" -f "$v"
done
example=(-f "$DEPLOY/kubernetes/values/example.yaml")
for shape in none hostPath tree claim; do
	for monitor in none PodMonitor ServiceMonitor; do
		render "both-$shape-$monitor" "${example[@]}" --set "cvmfs.shape=$shape,monitoring.monitor=$monitor,monitoring.rules=true,monitoring.dashboard=true,acceptance.image=i:1"
	done
done
render quiet "${example[@]}" --set ports.fetcher=null,ports.snapshotter=null
render one-port "${example[@]}" --set ports.snapshotter=null,monitoring.monitor=ServiceMonitor
render secret "${example[@]}" --set existingSecret=s,image.tag=v9,tolerations=null,image.pullSecrets[0].name=p,settings.LAMELLA_LEAN_MOUNTS=false

say "what can't work is refused"
refused 'repositories: name at least one' --set settings.CVMFS_SERVER_URL=u,settings.CVMFS_HTTP_PROXY=DIRECT
refused 'CVMFS_HTTP_PROXY' "${example[@]}" --set settings.CVMFS_HTTP_PROXY=
refused 'CVMFS_SERVER_URL' "${example[@]}" --set settings.CVMFS_SERVER_URL=
refused 'key' "${example[@]}" --set 'repositories[0].key=no key'
refused 'nonsense' "${example[@]}" --set nonsense=1
refused 'fetcher' "${example[@]}" --set ports.fetcher=70000
refused 'shape' "${example[@]}" --set cvmfs.shape=other
refused 'needs both ports' "${example[@]}" --set ports.fetcher=null,acceptance.image=i:1
refused 'there is no port' "${example[@]}" --set ports.fetcher=null,ports.snapshotter=null,monitoring.monitor=PodMonitor
refused "must not have a '" "${example[@]}" --set "settings.CVMFS_DNS_SERVER='x"
refused 'mountBase' "${example[@]}" --set mountBase=cvmfs
refused 'CVMFS_QUOTA_LIMIT' "${example[@]}" --set-json settings.CVMFS_QUOTA_LIMIT=0.5

say "objects"
node "$OBJECTS" "$LM_KUBERNETES" "$WORK"/*.yaml "$DEPLOY"/kubernetes/manifests/*.yaml "$DEPLOY"/atlas/harvester/*.yaml >"$WORK/out" 2>&1 ||
	fail "objects: $(head -n 20 "$WORK/out")"
say "  $(tail -n 1 "$WORK/out")"
# The check is one: it sees a name that is no field, and a wrong type.
for wrong in 's/hostPID: true/hostPlD: true/' 's/terminationGracePeriodSeconds: 120/terminationGracePeriodSeconds: soon/' 's/^kind: DaemonSet/kind: Daemonset/'; do
	sed "$wrong" "$WORK/site-example.yaml" >"$WORK/tmp/wrong.yaml"
	! cmp -s "$WORK/tmp/wrong.yaml" "$WORK/site-example.yaml" || fail "$wrong changes nothing"
	! node "$OBJECTS" "$LM_KUBERNETES" "$WORK/tmp/wrong.yaml" >/dev/null 2>&1 || fail "not seen: $wrong"
done
object site-example DaemonSet lamella '.spec.template.spec | .hostPID and .hostNetwork and .priorityClassName == "system-node-critical" and .containers[0].securityContext.privileged'
object site-example DaemonSet lamella '[.spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[] | select(.key == "kubernetes.io/arch").values[]] == ["amd64", "arm64"]'
object site-example DaemonSet lamella '.spec.template.spec.containers[0] | .lifecycle.preStop.exec and .readinessProbe.exec and .livenessProbe.exec and .resources.requests'
object both-hostPath-none Job lamella-acceptance '.spec.template.spec.volumes[] | select(.hostPath) | .hostPath.path == "/cvmfs/images.example.org"'
object both-tree-none Job lamella-acceptance '[.spec.template.spec.initContainers[1].volumeMounts[] | [.mountPath, .mountPropagation]] == [["/cvmfs", "HostToContainer"]]'
object both-claim-none Job lamella-acceptance '[.spec.template.spec.volumes[] | .persistentVolumeClaim.claimName // empty] == ["cvmfs"]'
object both-none-PodMonitor PodMonitor lamella '[.spec.podMetricsEndpoints[].port] == ["fetcher", "snapshotter"]'
object one-port ServiceMonitor lamella '[.spec.endpoints[].port] == ["fetcher"]'
object one-port Service lamella-metrics '[.spec.ports[] | [.name, .port]] == [["fetcher", 9177]]'
object quiet DaemonSet lamella '.spec.template.spec.containers[0] | has("ports") | not'
object secret ConfigMap lamella-settings ".data[\"lamella.conf\"] | contains(\"LAMELLA_LEAN_MOUNTS='no'\")"
# What the pods' script calls by name is what the chart mounts.
for dir in /host/opt /host/etc/lamella /host/etc/containerd /host/etc/systemd/system /host/run/lamella /settings /keys; do
	object site-example DaemonSet lamella "[.spec.template.spec.containers[0].volumeMounts[].mountPath] | index(\"$dir\") != null"
done

say "settings"
mkdir "$WORK/pub"
openssl genpkey -algorithm RSA -out "$WORK/tmp/key" 2>"$WORK/out" || fail "$(cat "$WORK/out")"
openssl pkey -in "$WORK/tmp/key" -pubout -out "$WORK/tmp/pub"
for site in "$WORK"/site-*.yaml; do
	node "$OBJECTS" "$LM_KUBERNETES" --json "$site" | jq -r 'select(.kind == "ConfigMap") | .data["lamella.conf"] // empty' |
		sed "s|/etc/lamella/keys|$WORK/pub|g" >"$WORK/lamella.conf"
	grep -oE "$WORK/pub/[^:']*" "$WORK/lamella.conf" | while read -r key; do cp "$WORK/tmp/pub" "$key"; done
	code=0
	"$LM_BUILD/fetcher/lamella-fetcher" --config "$WORK/lamella.conf" --check-config >"$WORK/out" 2>&1 || code=$?
	[ $code -le 1 ] || fail "${site##*/}: lamella-fetcher would not start: $(cat "$WORK/out")"
	! grep -qi 'unknown' "$WORK/out" || fail "${site##*/}: $(grep -i unknown "$WORK/out")"
done

say "the committed manifests"
"$DEPLOY/kubernetes/render" "$WORK/manifests" >"$WORK/out" 2>&1 || fail "render: $(cat "$WORK/out")"
diff -r "$DEPLOY/kubernetes/manifests" "$WORK/manifests" >"$WORK/out" || fail "deploy/kubernetes/render deploy/kubernetes/manifests was forgotten: $(head -n 20 "$WORK/out")"
! grep -rnE 'helm\.sh|managed-by' "$WORK/manifests" || fail "words of Helm in plain manifests"

say "alerts"
rules=$CHART/files/alerts.yaml
"$PROMTOOL" check rules "$rules" >"$WORK/out" 2>&1 || fail "$(cat "$WORK/out")"
# Annotations are for people; promtool would want each of them again in the tests.
awk '/^        annotations:/ { skip = 1; next } skip && /^          / { next } { skip = 0; print }' "$rules" >"$WORK/tmp/rules.yaml"
{ echo "rule_files: [rules.yaml]"; cat "$LM_ROOT/tests/e2e/alerts_test.yaml"; } >"$WORK/tmp/test.yaml"
(cd "$WORK/tmp" && "$PROMTOOL" test rules test.yaml) >"$WORK/out" 2>&1 || fail "$(cat "$WORK/out")"
mapfile -t alerts < <(sed -n 's/^      - alert: //p' "$rules")
for a in "${alerts[@]}"; do
	grep -A1 "alertname: $a\$" "$LM_ROOT/tests/e2e/alerts_test.yaml" | has -E 'exp_alerts:( \[\{.*|)$' || fail "no test in which $a fires"
	grep -q "alertname: $a, exp_alerts: \[\]" "$LM_ROOT/tests/e2e/alerts_test.yaml" || fail "no test in which $a does not fire"
	# The test can fail: with the alert turned round it does.
	awk -v a="$a" '/- alert: / { on = ($3 == a) } on && /^        expr:/ { print "        expr: vector(0) > 1"; skip = 1; next } skip && /^          / { next } { skip = 0; print }' \
		"$WORK/tmp/rules.yaml" >"$WORK/tmp/broken.yaml"
	sed 's/rules.yaml/broken.yaml/' "$WORK/tmp/test.yaml" >"$WORK/tmp/test-broken.yaml"
	! (cd "$WORK/tmp" && "$PROMTOOL" test rules test-broken.yaml) >"$WORK/out" 2>&1 || fail "the tests pass without $a"
done
say "  ${#alerts[@]} alerts"
object both-none-none PrometheusRule lamella ".spec.groups[0].rules | length == ${#alerts[@]}"

say "dashboard"
jq -e '.title == "Lamella" and ([.panels[].id] | length == (unique | length))' "$CHART/files/dashboard.json" >/dev/null || fail "dashboard"
jq '{groups: [{name: "dashboard", rules: [.panels[] | .targets // [] | .[] | .expr
	| gsub("\\$__rate_interval"; "5m") | gsub("\\$(instance|repository)"; ".*")] | to_entries | map({record: "panel:\(.key)", expr: .value})}]}' \
	"$CHART/files/dashboard.json" >"$WORK/tmp/dashboard.json"
"$PROMTOOL" check rules "$WORK/tmp/dashboard.json" >"$WORK/out" 2>&1 || fail "$(cat "$WORK/out")"
say "  $(jq '.groups[0].rules | length' "$WORK/tmp/dashboard.json") queries"
say "passed"
