//! What a program prints, collected by a thread so that the program never waits for us.
