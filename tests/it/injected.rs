//! The counter-example's worker: it does the same job with what stands in its environment, and asks
//! Secrets Manager for nothing.

use std::path::Path;

use twitterstream::demo::world::{SECRETS, keys_of};

use crate::support::{Stage, generated};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_injected"))
}

#[tokio::test]
async fn what_is_injected_does_the_main_job_and_no_secret_is_asked_for() {
    let stage = Stage::set(generated(1.0, 100)).await;
    let values = keys_of(stage.account());
    let injected: Vec<_> = SECRETS.into_iter().zip(values.iter().map(String::as_str)).collect();
    let mut run = stage.run(stage.command(program(), &injected));
    run.posts_read(100).await;
    assert_eq!(run.stop().await.code, Some(0));
    assert_eq!(stage.rows().len(), 100);
    let asked = stage.world.aws.audit();
    assert!(asked.iter().all(|record| !record.event_name.contains("Secret")), "{asked:?}");
}

#[tokio::test]
async fn what_is_not_injected_is_named() {
    let stage = Stage::set(generated(1.0, 1)).await;
    let values = keys_of(stage.account());
    let mut injected: Vec<_> = SECRETS.into_iter().zip(values.iter().map(String::as_str)).collect();
    injected.pop();
    let ended = stage.run(stage.command(program(), &injected)).end().await;
    ended.assert_says(69, &["the variable ACCESSTOKENSECRET is not set"]);
}
