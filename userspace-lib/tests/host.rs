//! What needs no child.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use spawn_template::{
    Child, Command, Error, InvalidInput, Mode, Prepared, SignalSet, Stdio, Template, TemplateOptions, sys,
};

fn assert_unsupported(error: Error) {
    assert!(error.is_unsupported(), "{error:?}");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
    assert_eq!(error.to_string(), "spawn_template_create: this kernel has no spawn templates");
    let error = io::Error::from(error);
    assert_eq!((error.kind(), error.raw_os_error()), (io::ErrorKind::Unsupported, Some(libc::ENOSYS)));
}

#[test]
fn a_kernel_without_the_calls_says_so() {
    if spawn_template::is_supported() {
        eprintln!("skipped: this kernel has spawn templates");
        return;
    }
    let options = TemplateOptions::new().mode(Mode::Template);
    assert_unsupported(options.open("/bin/true").unwrap_err());
    assert_unsupported(options.clone().close_on_exec(false).open("/does/not/exist").unwrap_err());
    assert_unsupported(options.from_file(File::open("/bin/true").unwrap()).unwrap_err());

    // SAFETY: null pointers with size 0 give the kernel nothing to read or write.
    let spawn = unsafe { sys::spawn_template_spawn(-1, std::ptr::null(), 0) };
    assert_eq!(spawn.unwrap_err().raw_os_error(), Some(libc::ENOSYS));
}

#[test]
fn paths_are_checked_before_the_kernel_is_asked() {
    for path in ["", "true", "./true", "../bin/true"] {
        let error = Template::open(path).unwrap_err();
        assert!(matches!(error, Error::Input(InvalidInput::RelativePath)), "{path:?}: {error:?}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }
    let error = Template::open("/bin/true\0").unwrap_err();
    assert!(matches!(error, Error::Input(InvalidInput::NulInPath)), "{error:?}");
    assert_eq!(error.to_string(), "the path contains a NUL byte");
}

#[test]
fn a_descriptor_that_is_no_template_is_refused() {
    let file = OwnedFd::from(File::open("/dev/null").unwrap());
    assert!(matches!(Template::from_owned_fd(file), Err(Error::Reply(_))));
}

#[test]
fn texts_name_the_call_and_the_reason() {
    let text = Template::from_owned_fd(File::open("/dev/null").unwrap().into()).unwrap_err().to_string();
    assert_eq!(text, "unexpected answer from the kernel: fdinfo lacks a field: not a spawn template");
}

#[test]
fn types_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Template>();
    shared::<Command<'_>>();
    shared::<Prepared<'_>>();
    shared::<Stdio<'_>>();
    shared::<Child>();
    shared::<SignalSet>();
    shared::<Error>();
}
