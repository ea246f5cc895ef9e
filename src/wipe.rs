//! What a computation leaves on the stack, overwritten.
//!
//! The allocator wipes the heap. But whoever signs with a secret, encodes it or compares it spills
//! parts of it into its stack frames and leaves parts of it in registers, and these stay there until
//! something else happens to be called.

use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};

use zeroize::Zeroizing;

/// How much of the stack is overwritten, in bytes: more than signing and parsing have ever used.
const DEPTH: usize = 64 * 1024;

/// Calls `compute`, and then overwrites the part of the stack that it ran on.
#[inline(never)]
pub fn stack_of<T>(compute: impl FnOnce() -> T) -> T {
    let result = below(compute);
    overwrite();
    result
}

/// So that the frames of `compute` begin where those of [`overwrite`] do.
#[inline(never)]
fn below<T>(compute: impl FnOnce() -> T) -> T {
    compute()
}

#[inline(never)]
#[expect(clippy::large_stack_arrays, reason = "the stack is what it is for")]
fn overwrite() {
    let mut block = [0_u8; DEPTH];
    // The compiler must believe that somebody reads it.
    black_box(&mut block);
    // The vector registers that the last copies went through still hold what they copied, and the next
    // signal's frame would put them on the stack. Copies of every class of length go through all of
    // them.
    let (from, to) = block.split_at_mut(DEPTH / 2);
    for length in [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 1024, 16 * 1024] {
        let length = black_box(length);
        if let (Some(to), Some(from)) = (to.get_mut(..length), from.get(..length)) {
            to.copy_from_slice(black_box(from));
        }
    }
    black_box(&mut block);
}

/// Base64 of a secret.
///
/// The encoder works in vector registers, and what it leaves there can stay for long: hardly anything
/// else uses all of them. Nothing, encoded after it in the same length, takes the same way through them.
#[must_use]
pub fn base64(secret: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(aws_smithy_types::base64::encode(secret));
    black_box(aws_smithy_types::base64::encode(black_box(vec![0; secret.len()])));
    encoded
}

/// A future that wipes the stack after each of its steps.
pub struct Steps<F>(Pin<Box<F>>);

/// Wipes the stack after each step of a future.
pub fn steps_of<F: Future>(future: F) -> Steps<F> {
    Steps(Box::pin(future))
}

impl<F: Future> Future for Steps<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        stack_of(|| self.0.as_mut().poll(cx))
    }
}
