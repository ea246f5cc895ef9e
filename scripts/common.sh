# shellcheck shell=bash disable=SC2034
# What the scripts share. It is sourced, and does nothing by itself.
#
# AWS is asked in two ways: `seek` reads, `change` changes. Both leave what AWS answered in $answer,
# and end the script with AWS's own words where it refuses; `change` does nothing with --dry-run.

if ((BASH_VERSINFO[0] < 5)); then
  printf '%s\n' "${0##*/}: it takes bash 5 or later; AWS CloudShell has it" >&2
  exit 1
fi

# Whatever the caller's shell traces is not for values that pass through here.
set +x
export AWS_PAGER='' AWS_DEFAULT_OUTPUT=json

readonly SECRETS=(CONSUMERKEY CONSUMERSECRETKEY ACCESSTOKEN ACCESSTOKENSECRET)
readonly REPOSITORY=twitterstream
readonly TABLE=twitterStream
readonly LOG_GROUP=twitterstream
readonly CLUSTER=twitterstream_cluster
readonly QUEUE=twitterstream-rotations
readonly ALARM=twitterstream-secret-access
# What bringup.sh makes carries this tag, and teardown.sh deletes nothing that does not.
readonly TAG_KEY=created-by
readonly TAG_VALUE=twitterstream/bringup.sh

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
dry_run=''
answer=''

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  shift
  (($# == 0)) || printf '  %s\n' "$@" >&2
  exit 1
}

usage_error() {
  printf '%s: %s; see --help\n' "${0##*/}" "$1" >&2
  exit 64
}

# value_of OPTION "$@": the argument behind an option.
value_of() {
  (($# > 2)) && [[ -n $3 ]] || usage_error "$1 needs a value"
  printf '%s' "$3"
}

# read_models NAME: the models that --model names, into the array `models`.
read_models() {
  case $1 in
    embedded | injected) models=("$1") ;;
    both) models=(embedded injected) ;;
    *) usage_error '--model is embedded, injected or both' ;;
  esac
}

# need_tools NAME...: they are installed.
need_tools() {
  local tool missing=()
  for tool in "$@"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) || die "not installed: ${missing[*]}" 'nothing was done'
}

# need_variables NAME...: each is set, and has the form that AWS gives it. All faults at once.
need_variables() {
  local name form faults=()
  for name in "$@"; do
    case $name in
      AWSACCOUNT) form='^[0-9]{12}$' ;;
      REGION) form='^[a-z]{2}(-[a-z]+)+-[0-9]+$' ;;
      SUBNET1 | SUBNET2) form='^subnet-[0-9a-f]+$' ;;
      SECURITYGROUP) form='^sg-[0-9a-f]+$' ;;
    esac
    if [[ -z ${!name:-} ]]; then
      faults+=("$name is not set")
    elif [[ ! ${!name} =~ $form ]]; then
      faults+=("$name is not of the form $form")
    fi
  done
  ((${#faults[@]} == 0)) || die 'nothing was done:' "${faults[@]}" 'see --help for an example'
  export AWS_REGION=$REGION AWS_DEFAULT_REGION=$REGION
}

# need_account: the credentials at hand are those of $AWSACCOUNT.
need_account() {
  seek '' sts get-caller-identity
  local found
  found=$(jq -r .Account <<<"$answer")
  [[ $found == "$AWSACCOUNT" ]] ||
    die "the AWS credentials at hand are those of account $found, not of AWSACCOUNT" 'nothing was done'
}

# refused WHAT: AWS has refused it; its words are in $scratch/error.
refused() {
  local hint='what was made so far stays: mend it and run the same command again, or run teardown.sh'
  case $(<"$scratch/error") in
    *ExpiredToken* | *"Unable to locate credentials"* | *InvalidClientTokenId* | *UnrecognizedClient*)
      hint="no valid AWS credentials: log in, and run the same command again" ;;
    *AccessDenied* | *UnauthorizedOperation*)
      hint="your own role may not do that: have it granted, and run the same command again" ;;
    *"Could not connect"* | *EndpointConnectionError* | *"timed out"* | *Throttling*)
      hint="AWS was not reached, or is busy: run the same command again" ;;
  esac
  die "failed: $1" "$(tr -s '\n' ' ' <"$scratch/error")" "$hint"
}

# seek ABSENT aws-arguments...: asks. 1 where the error matches ABSENT, the words for "not there".
seek() {
  local absent=$1 status=0
  shift
  answer=$(aws "$@" 2>"$scratch/error") || status=$?
  ((status == 0)) && return
  answer=''
  [[ -n $absent ]] && grep -Eq -- "$absent" "$scratch/error" && return 1
  refused "aws $1 $2"
}

# What passes by itself: a task that is still stopping, a name or a role that AWS does not know everywhere yet.
readonly SETTLES='ClusterContains(Tasks|Services)Exception|still Draining|[Uu]nable to assume|QueueDeletedRecently|ResourceInUseException'

# change WHAT aws-arguments...: says what is changed, and changes it.
change() {
  local what=$1 try
  shift
  answer=''
  if [[ $dry_run ]]; then
    say "would $what"
    return
  fi
  say "$what"
  for ((try = 1; ; try++)); do
    answer=$(aws "$@" 2>"$scratch/error") && return
    if ((try >= ${WAIT_TRIES:-120})) || ! grep -Eq -- "$SETTLES" "$scratch/error"; then refused "$what"; fi
    sleep "${WAIT_SECONDS:-5}"
  done
}

# filled_in FILE: a file of task-definition/ or iam/ with its placeholders filled in.
filled_in() {
  local text
  text=$(<"$root/$1")
  text=${text//\$REGION/$REGION}
  text=${text//\$AWSACCOUNT/$AWSACCOUNT}
  text=${text//\$CUSTOMERKEY/${customer_key:-}}
  printf '%s\n' "${text//\$VPCENDPOINT/${vpc_endpoint:-}}"
}

# ours FILTER: whether the tags that this jq filter finds in $answer have our own.
ours() {
  jq -e --arg key "$TAG_KEY" --arg value "$TAG_VALUE" \
    "$1"' // [] | if type == "object" then .[$key] == $value
       else any((.Key // .key) == $key and (.Value // .value) == $value) end' \
    <<<"$answer" >/dev/null
}

# secret_of NAME: its description into $answer; 1 where it is not there.
secret_of() { seek ResourceNotFoundException secretsmanager describe-secret --secret-id "$1"; }

# version_with LABEL: the version in $answer that carries a staging label, or nothing.
version_with() {
  jq -r --arg stage "$1" \
    '.VersionIdsToStages // {} | to_entries[] | select(.value | index($stage)) | .key' <<<"$answer"
}

# read_values NAME...: one value for each, from a prompt or from standard input in this order, into
# the array `values`. It is never an argument of a program, and never shown.
read_values() {
  local name value
  values=()
  for name in "$@"; do
    if [[ -t 0 ]]; then
      read -rsp "$name (not shown; nothing leaves it as it is): " value || value=''
      printf '\n' >&2
    else
      IFS= read -r value || [[ -n $value ]] || die "standard input has no line for $name" \
        "it takes ${#} lines: $*" 'nothing was done'
    fi
    value=${value%$'\r'}
    [[ $value != *[![:graph:]]* ]] ||
      die "the value for $name holds white space or a control character" 'nothing was done'
    ((${#value} <= 4096)) || die "the value for $name is longer than 4096 characters" 'nothing was done'
    values+=("$value")
  done
}

# no_history: version 2 of the AWS CLI can be told to keep what it sends.
no_history() {
  [[ $(aws configure get cli_history 2>/dev/null || true) != enabled ]] ||
    die "the AWS CLI keeps a history of what it sends (cli_history in its configuration)" \
      "it would keep the secrets: turn it off with 'aws configure set cli_history disabled'" \
      'nothing was done'
}

# with_value VALUE WHAT aws-arguments...: as `change`, with the value on aws's standard input.
with_value() {
  local value=$1
  shift
  change "$@" --secret-string file:///dev/stdin < <(printf '%s' "$value")
}
