//! Every lab can fail: its acts are performed with a program, a network or a host that is not what they
//! expect, and must say so. A file for each group of labs; most of the time goes into waiting for what
//! does not come, so all of them are one program, whose tests run side by side.

mod red;

mod bugs;
mod io;
mod life;
mod models;
mod owners;
mod signals;
mod wrong;
