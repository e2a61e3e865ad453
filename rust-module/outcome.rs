// SPDX-License-Identifier: GPL-2.0

//! How a spawn ended: what the caller learns besides the error number.

use crate::uapi;
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// How far a spawn came.
#[derive(Clone, Copy, PartialEq)]
#[repr(u32)]
pub(crate) enum Stage {
    Arguments = bindings::spawn_template_stage_SPAWN_TEMPLATE_STAGE_ARGUMENTS,
    Identity = bindings::spawn_template_stage_SPAWN_TEMPLATE_STAGE_IDENTITY,
    Create = bindings::spawn_template_stage_SPAWN_TEMPLATE_STAGE_CREATE,
    Action = bindings::spawn_template_stage_SPAWN_TEMPLATE_STAGE_ACTION,
    Exec = bindings::spawn_template_stage_SPAWN_TEMPLATE_STAGE_EXEC,
}

/// Where a spawn failed.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) stage: Stage,
    /// The index of the action, if it is due to one.
    pub(crate) action: Option<u16>,
}

/// Why and where a spawn failed.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) place: Place,
}

impl Failure {
    /// A failure that no action is to blame for.
    pub(crate) fn of(stage: Stage, error: Error) -> Self {
        let action = None;
        Self {
            error,
            place: Place { stage, action },
        }
    }

    /// A failure of the action at `index`.
    pub(crate) fn of_action(stage: Stage, index: usize, error: Error) -> Self {
        let action = u16::try_from(index).ok();
        Self {
            error,
            place: Place { stage, action },
        }
    }
}

/// Says at which stage an error occurred.
pub(crate) trait At<T> {
    /// The result, as one of `stage`.
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| Failure::of(stage, error))
    }
}

/// A place that the child leaves for the caller, who may have gone meanwhile.
pub(crate) struct SharedPlace(Atomic<u32>);

impl SharedPlace {
    const STAGES: [Stage; 3] = [Stage::Identity, Stage::Action, Stage::Exec];

    /// No place: if the spawn fails, it is because there is no child.
    pub(crate) fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Leaves `place`. The end of the spawn orders it before [`get`](Self::get).
    pub(crate) fn set(&self, place: Place) {
        let action = place.action.map_or(0, |action| u32::from(action) + 1);
        self.0.store(action << 8 | place.stage as u32, Relaxed);
    }

    /// What was left.
    pub(crate) fn get(&self) -> Place {
        let value = self.0.load(Relaxed);
        let stage = Self::STAGES
            .into_iter()
            .find(|&stage| stage as u32 == value & 0xff);
        Place {
            stage: stage.unwrap_or(Stage::Create),
            action: (value >> 8)
                .checked_sub(1)
                .and_then(|action| u16::try_from(action).ok()),
        }
    }
}

/// Where the caller wants to have the outcome, if it does.
pub(crate) struct Report {
    addr: u64,
    size: usize,
}

impl Report {
    /// Checks what the caller gave, and writes a success, so that it is known to be writable.
    ///
    /// `EINVAL` for an address without a size, a size without an address or one too small; `E2BIG`
    /// for one above a page; `EFAULT`.
    pub(crate) fn new(addr: u64, size: u64) -> Result<Self> {
        if (addr == 0) != (size == 0) {
            return Err(EINVAL);
        }
        if addr != 0 {
            let least = bindings::SPAWN_TEMPLATE_RESULT_SIZE_VER0;
            uapi::check_size(usize::try_from(size)?, least)?;
        }
        let report = Self {
            addr,
            // Not above a page.
            size: size as usize,
        };
        report.write(&bindings::spawn_template_result {
            action: -1,
            ..pin_init::zeroed()
        })?;
        Ok(report)
    }

    /// Tells the caller of a failure. If that cannot be done any more, it has its error number.
    pub(crate) fn fail(&self, failure: &Failure) {
        let place = failure.place;
        let _ = self.write(&bindings::spawn_template_result {
            stage: place.stage as u32,
            action: place.action.map_or(-1, i32::from),
            error: -failure.error.to_errno(),
            reserved: 0,
        });
    }

    fn write(&self, result: &bindings::spawn_template_result) -> Result {
        if self.addr == 0 {
            return Ok(());
        }
        let words = [
            result.stage,
            result.action as u32,
            result.error as u32,
            result.reserved,
        ];
        let mut writer = UserSlice::new(UserPtr::from_addr(self.addr as usize), self.size).writer();
        for word in words {
            writer.write(&word)?;
        }
        while !writer.is_empty() {
            let zeros = [0; 64];
            writer.write_slice(&zeros[..writer.len().min(zeros.len())])?;
        }
        Ok(())
    }
}
