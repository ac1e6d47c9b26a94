//! The listings: what the course's faulty programs come down to, in C as the course writes it.

/// The connection is closed inside the loop that reads from it.
pub const CLOSE_IN_LOOP: &str = "\
1   for (;;) {
2       connfd = accept(listenfd, NULL, NULL);
3       while ((n = read(connfd, buf, sizeof(buf))) > 0) {
4           write(connfd, buf, n);
5           close(connfd);
6       }
7   }";

/// The server's own end is inside its loop.
pub const ONE_CLIENT: &str = "\
1   listen(listenfd, 3);
2   for (;;) {
3       connfd = accept(listenfd, NULL, NULL);
4       str_echo(connfd);           /* reads and writes until end of file */
5       close(connfd);
6       close(listenfd);
7       return 0;
8   }";

/// An `#else` that belongs to the wrong `if`.
pub const NO_RESTART: &str = "\
1    void catch(int signo, void (*handler)(int))
2    {
3        struct sigaction act = { .sa_handler = handler };
4        if (signo == SIGALRM) {         /* a timeout is to interrupt */
5    #ifdef SA_INTERRUPT
6            act.sa_flags = SA_INTERRUPT;
7    #else
8            act.sa_flags = SA_RESTART;  /* everything else is not */
9    #endif
10       }
11       sigaction(signo, &act, NULL);
12   }";

/// scanf where lines are meant, and a string without an end.
pub const WORDS: &str = "\
1   char word[1024] = \"\", back[1024] = \"\";
2   for (;;) {
3       scanf(\"%s\", word);
4       if (strlen(word) == 0)
5           break;                  /* the end of the input */
6       write(sockfd, word, strlen(word));
7       read(sockfd, back, sizeof(back));
8       printf(\"%s\\n\", back);
9   }";

/// printf in a handler.
pub const PRINTF: &str = "\
1   void caught(int signo)          /* for SIGCHLD; here for SIGUSR1 */
2   {
3       printf(\"a child has ended\\n\");
4   }
5
6   for (n = 1; n <= 100000; n++)   /* in main */
7       printf(\"line %06d\\n\", n);";

/// No port, and no listen.
pub const NAMELESS: &str = "\
1   struct sockaddr_in addr = { 0 };
2   addr.sin_family = AF_INET;
3   addr.sin_addr.s_addr = htonl(INADDR_ANY);
4   listenfd = socket(AF_INET, SOCK_STREAM, 0);
5   bind(listenfd, (struct sockaddr *) &addr, sizeof(addr));
6   connfd = accept(listenfd, NULL, NULL);";

/// One pointer for two things.
pub const SAME_POINTER: &str = "\
1   struct sockaddr_in addr = { 0 };
2   socklen_t len = sizeof(addr);
3   connfd = accept(listenfd, (void *) &addr, (void *) &addr);
4   if (connfd < 0 && (errno == ECONNABORED || errno == ETIMEOUT))
5       continue;
6   printf(\"family %d, port %d\\n\", addr.sin_family, ntohs(addr.sin_port));";

/// A line for every occasion.
pub const LOCALS: &str = "\
1   #define MAXLINE 1000000
2
3   void str_cli(FILE *fp, int sockfd)
4   {
5       char sendline[MAXLINE], recvline[MAXLINE];
6       while (fgets(sendline, MAXLINE, fp) != NULL)
7           ...";
