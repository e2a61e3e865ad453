//! Children as futures.

#[path = "common/ways.rs"]
mod ways;

use std::os::unix::process::ExitStatusExt as _;

use spawn_template::Stdio;
use tokio::runtime::{Builder, Runtime};
use ways::{each_way, shell};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
}

#[test]
fn child_is_a_future() {
    each_way(|mode| {
        runtime().block_on(async {
            let child = shell(mode, "exit 7").spawn().unwrap().into_tokio().unwrap();
            assert_eq!(child.await.unwrap().code(), Some(7));
        });
    });
}

#[test]
fn waiting_again_gives_the_same_answer() {
    each_way(|mode| {
        runtime().block_on(async {
            // It ends when its standard input is closed, which waiting does.
            let mut command = shell(mode, "cat; exit 5");
            let mut child = command.stdin(Stdio::piped()).spawn().unwrap().into_tokio().unwrap();
            assert_eq!(child.wait().await.unwrap().code(), Some(5));
            assert_eq!(child.wait().await.unwrap().code(), Some(5));
            assert_eq!(child.into_inner().wait().unwrap().code(), Some(5));
        });
    });
}

#[test]
fn a_child_that_runs_is_pending() {
    use std::future::{Future as _, poll_fn};
    use std::pin::Pin;
    use std::task::Poll;
    each_way(|mode| {
        runtime().block_on(async {
            let mut child = shell(mode, "exec sleep 100").spawn().unwrap().into_tokio().unwrap();
            poll_fn(|context| {
                assert!(Pin::new(&mut child).poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            child.get_mut().kill().unwrap();
            assert_eq!(child.await.unwrap().signal(), Some(libc::SIGKILL));
        });
    });
}
