# Functions for a terminal beside `make run`:  . docs/examples/demo.sh
#
#   access WHO SCOPE PATH [curl's options]   send a request as an account of the demo; print the head
#   header NAME                              a header of the last answer
#   body                                     the body of the last answer
#   field KEY...                             one value of that body
#   record ID [WHO SCOPE]                    wait until an audit event is committed; print it
#   web_key                                  the key that this stack's web processes sign events with
#
# Each request gives the reason in $reason.

demo=${SIGHTLINE_HOME:-.sightline}/demo.json
reason='incident;ticket="INC-1"'
answer=$(mktemp -d)

url=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["base_url"])' "$demo")

token() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["tokens"][sys.argv[2]])' "$demo" "$1"; }

access() {
  curl -sS -D "$answer/head" -o "$answer/body" -H "Authorization: Bearer $(token "$1")" \
    -H "Sightline-Scope: $2" -H "Sightline-Reason: $reason" -H 'Content-Type: application/json' \
    "$url$3" "${@:4}"
  tr -d '\r' < "$answer/head" | grep -E '^(HTTP|ETag|Sightline)'
}

header() { tr -d '\r' < "$answer/head" | sed -n "s/^$1: //p"; }

body() { python3 -m json.tool --no-ensure-ascii "$answer/body"; }

field() {
  python3 -c 'import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]: value = value[int(key) if key.isdigit() else key]
print(value)' "$answer/body" "$@"
}

web_key() { sed -n 's/^WEB_JOURNAL_SIGNING_KEY=//p' "$(dirname "$demo")/stack.env"; }

record() {
  until access "${2:-auditor}" "${3:-global}" "/admin/api/audits/$1" | grep -q ' 200 '; do sleep 0.2; done
  body
}
