#!/usr/bin/env bash
# Creates the four secrets, or gives them new values.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

help() {
  cat <<'END'
Creates the secrets CONSUMERKEY, CONSUMERSECRETKEY, ACCESSTOKEN and ACCESSTOKENSECRET in AWS Secrets
Manager, or gives those that are there new values.

Usage: scripts/secrets.sh [--customer-key ARN] [--dry-run]

It asks for each value and does not show it; an empty one leaves that secret as it is. Without a
terminal it reads four lines from standard input, in the order above. A value is never an argument
and never printed.

  --customer-key ARN   encrypt new secrets with this KMS key; give it to bringup.sh as well
  --dry-run            say what would be done

Needs the variables AWSACCOUNT and REGION, and the tools aws and jq:

  export AWSACCOUNT=123456789012 REGION=us-west-2
END
}

customer_key=''
while (($# > 0)); do
  case $1 in
    --customer-key) customer_key=$(value_of "$1" "$@"); shift ;;
    --dry-run) dry_run=1 ;;
    --help | -h) help && exit ;;
    *) usage_error 'unknown argument' ;;
  esac
  shift
done

need_tools aws jq
need_variables AWSACCOUNT REGION
no_history
need_account

# All that can be wrong is found before the first is changed.
there=()
for name in "${SECRETS[@]}"; do
  if ! secret_of "$name"; then
    there+=('')
  elif jq -e .DeletedDate <<<"$answer" >/dev/null; then
    die "$name is scheduled for deletion" \
      "take it back: aws secretsmanager restore-secret --region $REGION --secret-id $name" \
      'nothing was done'
  else
    there+=(1)
  fi
done
read_values "${SECRETS[@]}"

for index in "${!SECRETS[@]}"; do
  name=${SECRETS[index]} value=${values[index]}
  if [[ -z $value ]]; then
    say "$name: left as it is$([[ ${there[index]} ]] || printf ', which is: not there')"
  elif [[ ${there[index]} ]]; then
    with_value "$value" "give $name a new value" secretsmanager put-secret-value --secret-id "$name"
  else
    with_value "$value" "create $name" secretsmanager create-secret --name "$name" \
      --description 'A credential of the stream that twitterstream reads' \
      ${customer_key:+--kms-key-id "$customer_key"}
  fi
done
