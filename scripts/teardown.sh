#!/usr/bin/env bash
# Deletes what bringup.sh has made.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

help() {
  cat <<'END'
Deletes what bringup.sh has made, the last thing first: it carries the tag created-by. What it finds
under the same names without that tag stays, and so do the secrets. It can stop at any step and be run
again; at the end it says what is left.

Usage: scripts/teardown.sh [OPTION]...

  --keep-table   leave the table with its rows
  --secrets      delete the four secrets too; AWS keeps them for seven days and can restore them
  --dry-run      say what would be done
  --help

Needs the variables AWSACCOUNT and REGION, and the tools aws and jq.
END
}

keep_table='' secrets=''
while (($# > 0)); do
  case $1 in
    --keep-table) keep_table=1 ;;
    --secrets) secrets=1 ;;
    --dry-run) dry_run=1 ;;
    --help | -h) help; exit ;;
    *) usage_error 'unknown argument' ;;
  esac
  shift
done

left=()
# stays WHAT: it is not bringup.sh's.
stays() { left+=("$1: bringup.sh has not made it"); }

# wait_while WHAT CONDITION...: until the condition fails.
wait_while() {
  local what=$1 try
  shift
  [[ $dry_run ]] && return
  for ((try = 0; try < ${WAIT_TRIES:-120}; try++)); do
    "$@" || return 0
    sleep "${WAIT_SECONDS:-5}"
  done
  die "still there: $what" 'run the same command again'
}

# --- Service and tasks -----------------------------------------------------------------------------

running_tasks() {
  seek ClusterNotFoundException ecs list-tasks --cluster "$CLUSTER" --family "$1" --desired-status RUNNING || return 1
  jq -e '.taskArns != []' <<<"$answer" >/dev/null || return 1
  local arns
  mapfile -t arns < <(jq -r '.taskArns[]' <<<"$answer")
  seek '' ecs describe-tasks --cluster "$CLUSTER" --tasks "${arns[@]}" --include TAGS
  # A task is told from others of its family by its tag; one of a service has the service's.
  mapfile -t arns < <(jq -r --arg key "$TAG_KEY" --arg value "$TAG_VALUE" '.tasks[]
    | select(any(.tags[]?; .key == $key and .value == $value)) | .taskArn' <<<"$answer")
  ((${#arns[@]} > 0)) || return 1
  found=("${arns[@]}")
}

end_service() {
  local name=twitterstream-$1 found=() task
  if seek ClusterNotFoundException ecs describe-services --cluster "$CLUSTER" --services "$name" --include TAGS &&
    jq -e 'any(.services[]; .status == "ACTIVE")' <<<"$answer" >/dev/null; then
    if ours '.services[0].tags'; then
      change "delete the service $name" ecs delete-service --cluster "$CLUSTER" --service "$name" --force
    else
      stays "the service $name"
      return
    fi
  fi
  if running_tasks "$name"; then
    for task in "${found[@]}"; do
      change "stop ${task##*/}" ecs stop-task --cluster "$CLUSTER" --task "$task" --reason teardown.sh
    done
    wait_while "a task of $name" running_tasks "$name"
  fi
}

end_task_definitions() {
  local family=twitterstream-$1 status arn
  for status in ACTIVE INACTIVE; do
    seek '' ecs list-task-definitions --family-prefix "$family" --status "$status"
    for arn in $(jq -r '.taskDefinitionArns[]' <<<"$answer"); do
      # The prefix finds families with longer names, too.
      [[ $arn == *":task-definition/$family:"* ]] || continue
      seek '' ecs describe-task-definition --task-definition "$arn" --include TAGS
      if ! ours .tags; then
        stays "$arn"
        continue
      fi
      if [[ $status == ACTIVE ]]; then
        change "deregister ${arn##*/}" ecs deregister-task-definition --task-definition "$arn"
      fi
      change "delete ${arn##*/}" ecs delete-task-definitions --task-definitions "$arn"
    done
  done
}

end_cluster() {
  seek '' ecs describe-clusters --clusters "$CLUSTER" --include TAGS
  jq -e 'any(.clusters[]; .status == "ACTIVE")' <<<"$answer" >/dev/null || return 0
  if ours '.clusters[0].tags'; then
    change "delete the cluster $CLUSTER" ecs delete-cluster --cluster "$CLUSTER"
  else
    stays "the cluster $CLUSTER"
  fi
}

# --- Events ----------------------------------------------------------------------------------------

end_rule() {
  local name=$1 targets
  seek ResourceNotFoundException events describe-rule --name "$name" || return 0
  seek '' events list-tags-for-resource --resource-arn "$(jq -r .Arn <<<"$answer")"
  if ! ours .Tags; then
    stays "the rule $name"
    return
  fi
  seek '' events list-targets-by-rule --rule "$name"
  mapfile -t targets < <(jq -r '.Targets[].Id' <<<"$answer")
  if ((${#targets[@]} > 0)); then
    change "take the target from the rule $name" events remove-targets --rule "$name" --ids "${targets[@]}"
  fi
  change "delete the rule $name" events delete-rule --name "$name"
}

end_queue() {
  local url
  seek 'NonExistentQueue|QueueDoesNotExist' sqs get-queue-url --queue-name "$QUEUE" || return 0
  url=$(jq -r .QueueUrl <<<"$answer")
  seek '' sqs list-queue-tags --queue-url "$url"
  # Without tags it answers nothing at all.
  if ours .Tags; then
    change "delete the queue $QUEUE" sqs delete-queue --queue-url "$url"
  else
    stays "the queue $QUEUE"
  fi
}

end_topic() {
  local topic=arn:aws:sns:$REGION:$AWSACCOUNT:$ALARM arn
  seek NotFound sns get-topic-attributes --topic-arn "$topic" || return 0
  seek '' sns list-tags-for-resource --resource-arn "$topic"
  if ! ours .Tags; then
    stays "the topic $ALARM"
    return
  fi
  seek '' sns list-subscriptions-by-topic --topic-arn "$topic"
  for arn in $(jq -r '.Subscriptions[].SubscriptionArn | select(startswith("arn:"))' <<<"$answer"); do
    change 'end its subscription' sns unsubscribe --subscription-arn "$arn"
  done
  change "delete the topic $ALARM" sns delete-topic --topic-arn "$topic"
}

# --- The rest --------------------------------------------------------------------------------------

free_secrets() {
  local name
  for name in "${SECRETS[@]}"; do
    if ! secret_of "$name" || jq -e .DeletedDate <<<"$answer" >/dev/null; then continue; fi
    seek '' secretsmanager get-resource-policy --secret-id "$name"
    if jq -e '[(.ResourcePolicy // "{}") | fromjson | .Statement[]?.Sid] == ["OnlyThroughTheEndpoint"]' \
      <<<"$answer" >/dev/null; then
      change "free $name from the endpoint" secretsmanager delete-resource-policy --secret-id "$name"
    fi
    if [[ $secrets ]]; then
      change "delete $name in seven days" secretsmanager delete-secret --secret-id "$name" \
        --recovery-window-in-days 7
    else
      left+=("the secret $name, with its values; --secrets deletes it")
    fi
  done
}

end_role() {
  local role=$1 policy
  seek NoSuchEntity iam get-role --role-name "$role" || return 0
  if ! ours .Role.Tags; then
    stays "the role $role"
    return
  fi
  seek '' iam list-role-policies --role-name "$role"
  for policy in $(jq -r '.PolicyNames[]' <<<"$answer"); do
    change "delete the policy $policy" iam delete-role-policy --role-name "$role" --policy-name "$policy"
  done
  change "delete the role $role" iam delete-role --role-name "$role"
}

end_log_group() {
  seek '' logs describe-log-groups --log-group-name-prefix "$LOG_GROUP"
  local arn
  arn=$(jq -r --arg name "$LOG_GROUP" '.logGroups[] | select(.logGroupName == $name).arn | rtrimstr(":*")' <<<"$answer")
  [[ $arn ]] || return 0
  seek '' logs list-tags-for-resource --resource-arn "$arn"
  if ours .tags; then
    change "delete the log group $LOG_GROUP" logs delete-log-group --log-group-name "$LOG_GROUP"
  else
    stays "the log group $LOG_GROUP"
  fi
}

end_table() {
  seek ResourceNotFoundException dynamodb describe-table --table-name "$TABLE" || return 0
  [[ $(jq -r .Table.TableStatus <<<"$answer") != DELETING ]] || return 0
  seek '' dynamodb list-tags-of-resource --resource-arn "$(jq -r .Table.TableArn <<<"$answer")"
  if ! ours .Tags; then
    stays "the table $TABLE"
  elif [[ $keep_table ]]; then
    left+=("the table $TABLE with its rows, as you asked")
  else
    # A table that has just been made cannot be deleted yet.
    [[ $dry_run ]] || seek '' dynamodb wait table-exists --table-name "$TABLE"
    change "delete the table $TABLE" dynamodb delete-table --table-name "$TABLE"
  fi
}

end_repository() {
  seek RepositoryNotFoundException ecr describe-repositories --repository-names "$REPOSITORY" || return 0
  seek '' ecr list-tags-for-resource --resource-arn "$(jq -r '.repositories[0].repositoryArn' <<<"$answer")"
  if ours .tags; then
    change "delete the repository $REPOSITORY with its images" ecr delete-repository \
      --repository-name "$REPOSITORY" --force
  else
    stays "the repository $REPOSITORY"
  fi
}

need_tools aws jq
need_variables AWSACCOUNT REGION
need_account
for model in embedded injected; do end_service "$model"; done
for model in embedded injected; do end_task_definitions "$model"; done
end_cluster
free_secrets
end_rule "$ALARM"
end_topic
end_rule "$QUEUE"
end_queue
for model in embedded injected; do
  end_role "twitterstream-$model-task-execution-role"
  end_role "twitterstream-$model-task-role"
done
end_log_group
end_table
end_repository

if ((${#left[@]} == 0)); then
  say 'nothing is left'
else
  say 'left:'
  printf '  %s\n' "${left[@]}"
fi
