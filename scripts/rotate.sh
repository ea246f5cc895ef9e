#!/usr/bin/env bash
# Rotates the four secrets, or takes a rotation back.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

help() {
  cat <<'END'
Rotates the four secrets in the steps of Secrets Manager's own rotation. The running worker takes the
new values over by itself; a task with injected secrets must be started anew.

Usage: scripts/rotate.sh [create | test | finish | roll-back] [--no-test] [--dry-run]

  create     store new values under AWSPENDING; asked for, or four lines of standard input in the order
             CONSUMERKEY, CONSUMERSECRETKEY, ACCESSTOKEN, ACCESSTOKENSECRET; an empty one is not rotated
  test       ask X for a token with the consumer key and secret that would then be in force
  finish     move AWSCURRENT to what is pending
  roll-back  move AWSCURRENT back to what it was on before the last finish, of the secrets that it moved

Without a word it does create, test and finish. (The step setSecret is yours: make the new values in
X's developer console first, and end the old ones there afterwards.) Each step can be run again; after
a stop in between, run the steps that are left.

  --no-test   do not ask X: for a feed that is another's, or set X_TOKEN_URL to where it gives tokens
  --dry-run   say what would be done

Needs the variables AWSACCOUNT and REGION, and the tools aws and jq, and curl for the test.
END
}

steps=() test=1
while (($# > 0)); do
  case $1 in
    create | test | finish | roll-back) steps+=("$1") ;;
    --no-test) test='' ;;
    --dry-run) dry_run=1 ;;
    --help | -h) help; exit ;;
    *) usage_error 'unknown argument' ;;
  esac
  shift
done
((${#steps[@]} < 2)) || usage_error 'one step, or none for all'
((${#steps[@]} == 1)) || steps=(create test finish)

# moved NAME LABEL TO FROM: moves a staging label; an empty end is nowhere.
moved() {
  local arguments=()
  [[ -z $3 ]] || arguments+=(--move-to-version-id "$3")
  [[ -z $4 ]] || arguments+=(--remove-from-version-id "$4")
  change "$1: move $2 ${4:+from $4 }${3:+to $3}" secretsmanager update-secret-version-stage \
    --secret-id "$1" --version-stage "$2" "${arguments[@]}"
}

check_secrets() {
  local name missing=()
  for name in "${SECRETS[@]}"; do
    if ! secret_of "$name" || [[ -z $(version_with AWSCURRENT) ]]; then missing+=("$name"); fi
  done
  ((${#missing[@]} == 0)) || die "not there, or without a value: ${missing[*]}" \
    'create them with scripts/secrets.sh' 'nothing was done'
}

create() {
  local index name
  read_values "${SECRETS[@]}"
  for index in "${!SECRETS[@]}"; do
    name=${SECRETS[index]}
    if [[ -z ${values[index]} ]]; then
      say "$name: not rotated"
    else
      with_value "${values[index]}" "$name: store the new value under AWSPENDING" \
        secretsmanager put-secret-value --secret-id "$name" --version-stages AWSPENDING
    fi
  done
}

# value_in_force NAME: the value that finish would leave in force.
value_in_force() {
  local stage=AWSCURRENT
  secret_of "$1"
  if [[ $(version_with AWSPENDING) ]]; then stage=AWSPENDING; fi
  seek '' secretsmanager get-secret-value --secret-id "$1" --version-stage "$stage"
  # A here-string may become a file, a pipe does not.
  printf '%s' "$answer" | jq -r '.SecretString | @uri'
}

# Asking for a token changes nothing at X: the same key is given the same token.
test_at_x() {
  local key secret status
  [[ $test ]] || return 0
  if [[ $dry_run ]]; then
    say 'would ask X for a token'
    return
  fi
  key=$(value_in_force CONSUMERKEY)
  secret=$(value_in_force CONSUMERSECRETKEY)
  # The header goes to curl on its standard input, and the answer, which is a token, nowhere.
  status=$(printf 'header = "Authorization: Basic %s"\n' "$(printf '%s:%s' "$key" "$secret" | base64 | tr -d '\n')" |
    curl --config - --silent --show-error --max-time 20 --proto-default https --output /dev/null \
      --write-out '%{http_code}' --data grant_type=client_credentials \
      "${X_TOKEN_URL:-https://api.x.com/oauth2/token}") ||
    die 'X was not reached' 'run: scripts/rotate.sh test, and then: scripts/rotate.sh finish'
  [[ $status == 200 ]] ||
    die "X gives no token for the pending consumer key and secret (HTTP $status)" \
      'AWSCURRENT was not moved; correct the values with: scripts/rotate.sh create'
  say 'X gives a token for the pending consumer key and secret'
}

# The tag that says what roll-back goes back to: NAME=VERSION of each secret that the last finish has moved.
# AWSPREVIOUS alone would not do: of a secret that was left out it is older, and its keys may have ended.
# One tag on the first secret says it of all, so it is written as a whole and before the first move.
readonly BEFORE=twitterstream-before-rotation

finish() {
  local name version current moving=() entries=() text
  for name in "${SECRETS[@]}"; do
    secret_of "$name"
    version=$(version_with AWSPENDING)
    current=$(version_with AWSCURRENT)
    if [[ $version && $version == "$current" ]]; then
      # Moved by a run that was stopped.
      current=$(version_with AWSPREVIOUS)
    elif [[ $version ]]; then
      moving+=("$name")
    fi
    if [[ $version && $current ]]; then entries+=("$name=$current"); fi
  done
  text="${entries[*]}"
  if ((${#moving[@]} > 0)) && [[ $text != "$(before_rotation)" ]]; then
    change "remember what roll-back goes back to: $text" secretsmanager tag-resource \
      --secret-id "${SECRETS[0]}" --tags "Key=$BEFORE,Value=$text"
  fi
  for name in "${moving[@]}"; do
    secret_of "$name"
    moved "$name" AWSCURRENT "$(version_with AWSPENDING)" "$(version_with AWSCURRENT)"
  done
  # After the last move: until then it tells what belongs to this rotation.
  for name in "${SECRETS[@]}"; do
    secret_of "$name"
    version=$(version_with AWSPENDING)
    if [[ $version ]]; then moved "$name" AWSPENDING '' "$version"; fi
  done
  ((${#moving[@]} > 0)) || [[ $dry_run ]] || say 'nothing was pending'
}

# before_rotation: what the tag says.
before_rotation() {
  secret_of "${SECRETS[0]}"
  jq -r --arg key "$BEFORE" '.Tags // [] | .[] | select(.Key == $key) | .Value' <<<"$answer"
}

roll_back() {
  local name current pair words=() changed=() left=()
  local -A before=()
  read -ra words <<<"$(before_rotation)"
  for pair in "${words[@]}"; do before[${pair%%=*}]=${pair#*=}; done
  ((${#before[@]} > 0)) || die 'there is no rotation to take back: none was finished, or it was taken back before' \
    'nothing was done; other labels are moved with: aws secretsmanager update-secret-version-stage'
  for name in "${SECRETS[@]}"; do
    secret_of "$name"
    if [[ -z ${before[$name]:-} ]]; then
      left+=("$name")
    elif [[ ${before[$name]} != "$(version_with AWSCURRENT)" && ${before[$name]} != "$(version_with AWSPREVIOUS)" ]]; then
      changed+=("$name")
    fi
  done
  ((${#changed[@]} == 0)) || die "given another value since the last rotation: ${changed[*]}" \
    'nothing was done; give all four the values that belong together with scripts/secrets.sh'
  ((${#left[@]} == 0)) || say "not in the last rotation, so they stay: ${left[*]}"
  for name in "${SECRETS[@]}"; do
    [[ ${before[$name]:-} ]] || continue
    secret_of "$name"
    current=$(version_with AWSCURRENT)
    if [[ ${before[$name]} != "$current" ]]; then moved "$name" AWSCURRENT "${before[$name]}" "$current"; fi
  done
  change 'forget the rotation that was taken back' secretsmanager untag-resource \
    --secret-id "${SECRETS[0]}" --tag-keys "$BEFORE"
}

need_tools aws jq
need_variables AWSACCOUNT REGION
if [[ " ${steps[*]} " == *' test '* && $test ]]; then need_tools curl base64; fi
if [[ " ${steps[*]} " == *' create '* ]]; then no_history; fi
need_account
check_secrets
for step in "${steps[@]}"; do
  case $step in
    create) create ;;
    test) test_at_x ;;
    finish) finish ;;
    roll-back) roll_back ;;
  esac
done
case " ${steps[*]} " in
  *' finish '* | *' roll-back '*)
    say 'the worker takes it over by itself; a service with injected secrets needs'
    say "  aws ecs update-service --region $REGION --cluster $CLUSTER --service twitterstream-injected --force-new-deployment" ;;
esac
