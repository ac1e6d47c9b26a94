//! Labs that tell what they do while they do it.
//!
//! [`step`] has the parts a lab is written in, [`fact`] what an observation can be and how it is
//! judged, [`perform`] performs the steps, and a [`Renderer`] decides what is seen of it:
//! [`terminal`] for a class, [`quiet`] for a test. [`view`] and [`ladder`] are what is shown;
//! [`record`] writes a performance down, to be told again in other forms, and [`plan`] tells it without
//! one; [`course`] says where a lab stands in the course, [`try_it`] what students may type.

pub mod course;
pub mod fact;
pub mod ladder;
pub mod perform;
pub mod plan;
pub mod quiet;
pub mod record;
pub mod step;
pub mod terminal;
pub mod text;
pub mod try_it;
pub mod view;

pub use course::{Chapter, Need};
pub use fact::{Expected, Fact, Judgement, Unseen};
pub use ladder::Ladder;
pub use perform::{Event, Lab, Renderer, Report, Scene, Stop};
pub use record::{Record, Recorder};
pub use step::{Act, Question, Stage, Typed, keys, shell};
pub use text::Names;
pub use view::View;
