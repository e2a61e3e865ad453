//! Waiting for a child in a tokio runtime (feature `tokio`).
//!
//! ```no_run
//! use spawn_template::{Command, Stdio};
//! use tokio::net::unix::pipe::Receiver;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut child = Command::new("echo").arg("hello").stdout(Stdio::piped()).spawn()?.into_tokio()?;
//! // The end of a pipe is a descriptor like any other.
//! let stdout = child.get_mut().stdout.take().ok_or("no pipe")?;
//! let stdout = Receiver::from_owned_fd(stdout.into())?;
//! stdout.readable().await?;
//! assert!(child.wait().await?.success());
//! # Ok(())
//! # }
//! ```

use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Call, Error};

/// A [`Child`](crate::Child) that is waited for without blocking a thread, through its pidfd. It is itself a future of
/// how the process ends.
///
/// Made by [`Child::into_tokio`](crate::Child::into_tokio).
#[derive(Debug)]
pub struct Child {
    child: crate::Child,
    /// A duplicate of the pidfd, which nobody else can close while the runtime watches it.
    pidfd: AsyncFd<OwnedFd>,
}

impl crate::Child {
    /// Registers the pidfd with the current tokio runtime, whose I/O driver has to be enabled.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with [`Call::Watch`] when the descriptor cannot be duplicated or registered. The process runs on
    /// then; with [`kill_on_drop`](crate::Command::kill_on_drop) it does not.
    ///
    /// # Panics
    ///
    /// As [`AsyncFd`]: outside of a runtime.
    pub fn into_tokio(self) -> Result<Child, Error> {
        let watch = |pidfd| {
            #[allow(deprecated, reason = "its successor is too new, and an OwnedFd is what both want")]
            AsyncFd::with_interest(pidfd, Interest::READABLE)
        };
        let pidfd = self.as_fd().try_clone_to_owned().and_then(watch);
        Ok(Child { child: self, pidfd: pidfd.map_err(|error| Error::os(Call::Watch, error))? })
    }
}

impl Child {
    /// Waits until the process has ended and returns how; again, if it is asked again. The pipe to its standard input is
    /// closed first. Dropping the future and waiting anew loses nothing.
    ///
    /// # Errors
    ///
    /// As [`Child::wait`](crate::Child::wait), and [`Error::Os`] with [`Call::Watch`] when the runtime shuts down.
    pub async fn wait(&mut self) -> Result<ExitStatus, Error> {
        drop(self.child.stdin.take());
        poll_fn(|context| self.poll_wait(context)).await
    }

    /// The child, for its streams and signals.
    pub fn get_ref(&self) -> &crate::Child {
        &self.child
    }

    /// The child, to take its streams.
    pub fn get_mut(&mut self) -> &mut crate::Child {
        &mut self.child
    }

    /// The child, not watched any more.
    pub fn into_inner(self) -> crate::Child {
        self.child
    }

    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<Result<ExitStatus, Error>> {
        loop {
            let ready = ready!(self.pidfd.poll_read_ready(context));
            let mut ready = ready.map_err(|error| Error::os(Call::Watch, error))?;
            match self.child.try_wait()? {
                Some(status) => return Poll::Ready(Ok(status)),
                None => ready.clear_ready(),
            }
        }
    }
}

impl Future for Child {
    type Output = Result<ExitStatus, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_wait(context)
    }
}
