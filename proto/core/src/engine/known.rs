//! The engines that are known.

use super::described::Engine;
use super::lupine::LUPINE;

/// All that are known.
pub const ALL: [&Engine; 1] = [&LUPINE];

/// An engine by its name.
pub fn named(name: &str) -> Option<&'static Engine> {
    ALL.into_iter().find(|engine| engine.name == name)
}
